import pytest

from invoker.config.keys import Address


@pytest.mark.parametrize(
    ("text", "host", "port", "again"),
    [
        ("127.0.0.1:3233", "127.0.0.1", 3233, "127.0.0.1:3233"),
        (":80", "0.0.0.0", 80, "0.0.0.0:80"),
        ("[::1]:0", "::1", 0, "[::1]:0"),
        ("node-1:65535", "node-1", 65535, "node-1:65535"),
    ],
)
def test_an_address_is_parsed_and_written_back(text: str, host: str, port: int, again: str) -> None:
    address = Address.parse(text)
    assert (address.host, address.port, str(address)) == (host, port, again)


@pytest.mark.parametrize("text", ["", "3233", "127.0.0.1", "127.0.0.1:", "::1:80", "h:65536", "h:-1", "h:٣"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        Address.parse(text)
