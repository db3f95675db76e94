import pytest

from invoker.config.model import ConfigError
from invoker.http.operators import load_credentials


def test_without_a_file_nobody_has_credentials():
    assert load_credentials(None) is None


def test_the_file_has_one_line(tmp_path):
    path = tmp_path / "operator.key"
    path.write_text("operator:hush:with colon\n")
    assert load_credentials(path) == "operator:hush:with colon"


@pytest.mark.parametrize("content", [b"", b"operator\n", b":hush", b"operator:", b"a:b\nc:d\n", b"\xff:x"])
def test_what_is_no_credentials_is_refused_with_the_key_of_the_configuration(tmp_path, content):
    path = tmp_path / "operator.key"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"http\.operator_credentials_file: .*operator\.key"):
        load_credentials(path)


def test_a_file_that_is_gone_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_credentials(tmp_path / "gone")
