import pytest

from invoker.stores import SECRET_BYTES, SecretUnreadable, _secret


def test_a_secret_is_made_once_for_the_daemon_alone_and_read_again(tmp_path):
    path = tmp_path / "secret"
    made = _secret(path)
    assert (len(made), path.stat().st_mode & 0o777) == (SECRET_BYTES, 0o600)
    assert _secret(path) == made


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_secret_of_another_length_is_not_used_and_not_replaced(tmp_path, content):
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(SecretUnreadable, match=f"has {len(content)} bytes, not 32"):
        _secret(path)
    assert path.read_bytes() == content


def test_a_secret_that_cannot_be_made_is_named(tmp_path):
    with pytest.raises(SecretUnreadable, match="missing/secret: No such file"):
        _secret(tmp_path / "missing" / "secret")
