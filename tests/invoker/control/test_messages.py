import msgspec
import pytest

from invoker.control import messages


def test_segments_of_a_path_are_encoded() -> None:
    assert messages.path_to(messages.NAMESPACE, name="a/b c?") == "/v1/namespaces/a%2Fb%20c%3F"


def test_a_message_survives_the_way_and_unknown_fields_are_ignored() -> None:
    wanted = messages.CreateNamespace(name="alice", uid=4711, gid=4711, mounts=("data",))
    assert messages.decode(messages.encode(wanted), messages.CreateNamespace) == wanted
    assert messages.decode(b'{"key": "u:k", "new": 1}', messages.KeyReply) == messages.KeyReply(key="u:k")
    assert messages.to_builtins(messages.KeyReply(key="u:k")) == {"key": "u:k"}


def test_a_message_of_the_wrong_shape_names_the_field() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\.uid"):
        messages.decode(b'{"name": "a", "uid": "x", "gid": 1}', messages.CreateNamespace)
