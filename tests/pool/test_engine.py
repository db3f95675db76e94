"""The doors to the engine; what goes through them is tested with the verbs, in test_docker.py."""

from __future__ import annotations

import asyncio

import pytest

from pool.engine import EngineClient, EngineRefused, translated
from pool.errors import EngineError, EngineUnavailable
from pool.guard import CallClass, Deadlines, Guard


@pytest.mark.parametrize("url", ["", "ssh://host", "/var/run/docker.sock"])
def test_a_url_of_no_local_engine_is_refused(url):
    with pytest.raises(EngineError, match="only unix:// and tcp://"):
        EngineClient(url, Guard())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nrubbish", EngineError),
        (b"not even HTTP\r\n\r\n", EngineUnavailable),
        (b"HTTP/1.1 500 X\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", EngineError),
        (b"HTTP/1.1 500 X\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\ndisk", EngineRefused),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[", EngineUnavailable),
        (b"", EngineUnavailable),
    ],
)
async def test_whatever_an_engine_answers_becomes_one_of_our_errors(tmp_path, answer, error):
    async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(lie, str(tmp_path / "engine.sock"))
    guard = Guard(deadlines=Deadlines(read_s=2.0))
    client = EngineClient(f"unix://{tmp_path}/engine.sock", guard)
    with pytest.raises(error):
        await client.request("list", CallClass.READ, "GET", "containers/json", list[int])
    await client.close()
    server.close()
    assert guard.calls["list"].count == 1


def test_a_foreign_error_that_nobody_expects_is_a_bug_and_stays_one():
    with pytest.raises(RuntimeError), translated("list"):
        raise RuntimeError
