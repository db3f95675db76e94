"""Conversations that Hypothesis makes up, good HTTP and bad, in pieces: both lanes answer byte for byte the same.

Whatever is said ends with blank lines and a request that closes the connection: so bodies that are shorter than told and heads
without an end do not wait for what will not come, and no test depends on a timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import socket
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lanes import VARYING, both

TARGET = "/api/v1/namespaces/_/actions/hello"
#: Bodies are told to be longer than they are by less than this.
BLANK = b"\r\n" * 300
LAST = b"GET /ping HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
DEADLINE_S = 60.0

#: The whole refusal of what is no HTTP.
NO_HTTP = re.compile(
    rb"HTTP/1\.[01] 400 Bad Request\r\n(?:[^\r\n]+\r\n)+\r\n"
    rb"\{\"error\":\"The request is not well-formed HTTP: [^\r\n]*\"code\":\"\*\"\}$"
)

#: No DELETE: what one lane deletes the other does not find.
METHODS = st.sampled_from(["POST"] * 8 + ["GET", "PUT", "HEAD", "OPTIONS", "PATCH", "TRACE", "post", "", "BREW"])
TARGETS = st.one_of(
    st.sampled_from(
        [TARGET, f"{TARGET}?blocking=true", f"{TARGET}?blocking=true&result=true", f"{TARGET}?blocking=maybe"] * 3
        + [
            "/ping",
            "/",
            "*",
            "",
            "/api/v1/namespaces/_/actions",
            "/api/v1/web/guest/default/hello.json",
            "http://a/ping",
            f"/{TARGET}",
        ]
        + [
            f"{TARGET}/",
            f"{TARGET}#x",
            f"{TARGET}?a=%ff",
            f"{TARGET}%00",
            "/api/v1/namespaces/_/actions/h%65llo",
            f"{TARGET}\xe9",
        ]
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=20).map(
        lambda text: f"/api/v1/namespaces/_/actions/{text}"
    ),
)
VERSIONS = st.sampled_from(
    ["HTTP/1.1"] * 12 + ["HTTP/1.0", "HTTP/1.0", "HTTP/2.0", "HTTP/1.2", "HTTP/0.9", "http/1.1", "HTTP/1.1 ", ""]
)
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\n "])
VALUES = st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=30).map(lambda text: text.encode("latin-1"))
HEADERS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"Connection: keep-alive",
                b"Connection: close",
                b"connection: Close, x",
                b"Accept: */*",
                b"Accept: text/html",
                b"X-Request-ID: mine",
                b"Idempotency-Key: ",
                b"Expect: 100-continue",
                b"Expect: 200-ok",
                b"Content-Encoding: identity",
                b"Content-Encoding: gzip",
                b"Host: again",
                b"Authorization: Basic x",
                b"Content-Type: text/plain",
                b"Cookie: a=b; c",
                b" folded: yes",
                b"no colon",
                b": no name",
                b"spaced : x",
                b"X-Tab:\tx\t",
                b"X-Empty:",
                b"X-Long: " + b"x" * 9000,
            ]
        ),
        VALUES.map(lambda value: b"X-Any: " + value),
    ),
    max_size=3,
)
PAYLOADS = st.one_of(
    st.sampled_from(
        [b"{}", b'{"a":1}', b"", b"[1]", b"{", b'{"a":1e400}', b'{"a":"' + b"x" * 3000 + b'"}', b"\xff\xfe", b"null"]
    ),
    st.binary(max_size=40),
)
ODD_LENGTHS = st.sampled_from([b"Content-Length: +2", b"Content-Length: 2, 2", b"Content-Length:", b"Transfer-Encoding: gzip"])
CHUNKS = st.sampled_from(
    [
        b"2\r\n{}\r\n0\r\n\r\n",
        b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        b"2;a=b\r\n{}\r\n0\r\nX-Trailer: x\r\n\r\n",
        b"02\r\n{}\r\n000\r\n\r\n",
        b"0\r\n\r\n",
        b"2\n{}\n0\n\n",
        b"-2\r\n{}\r\n0\r\n\r\n",
        b"0x2\r\n{}\r\n0\r\n\r\n",
        b"3\r\n{}\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}0\r\n\r\n",
    ]
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """Header lines that tell of a body, and what comes: mostly what was told."""
    framing = draw(st.sampled_from(["length"] * 6 + ["none", "wrong", "chunked", "both", "odd"]))
    if framing in {"chunked", "both"}:
        lines = [b"Transfer-Encoding: chunked"] + ([b"Content-Length: 2"] if framing == "both" else [])
        return draw(st.permutations(lines)), draw(CHUNKS)
    payload = draw(PAYLOADS)
    if framing == "none":
        return [], draw(st.sampled_from([b"", payload]))
    if framing == "wrong":
        return [b"Content-Length: %d" % max(0, len(payload) + draw(st.integers(-5, 500)))], payload
    if framing == "odd":
        return [draw(ODD_LENGTHS)], payload
    return [b"Content-Length: %d" % len(payload)], payload


@st.composite
def requests(draw: st.DrawFn, auth: str) -> bytes:
    """One request: its parts are drawn one by one, and most are good ones."""
    framing, body = draw(bodies())
    lines = [
        " ".join((draw(METHODS), draw(TARGETS), draw(VERSIONS))).encode("latin-1"),
        *draw(st.sampled_from([[b"Host: node"]] * 9 + [[]])),
        *draw(st.sampled_from([[b"Authorization: " + auth.encode()]] * 9 + [[]])),
        *draw(st.sampled_from([[b"Content-Type: application/json"]] * 9 + [[]])),
        *framing,
        *draw(HEADERS),
    ]
    return b"".join(line + draw(ENDS) for line in lines) + b"\r\n" + body


@st.composite
def conversations(draw: st.DrawFn, auth: str) -> list[bytes]:
    """Some requests behind each other, cut into pieces anywhere."""
    data = b"".join(draw(st.lists(requests(auth), min_size=1, max_size=3))) + BLANK + LAST
    cuts = sorted(draw(st.lists(st.integers(1, max(1, len(data) - len(BLANK) - len(LAST))), max_size=4)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


async def converse(port: int, parts: list[bytes]) -> bytes:
    """Say the parts, and return all that comes until the server closes. A raw socket: what came before a reset is not lost."""
    loop = asyncio.get_running_loop()
    with contextlib.closing(socket.socket()) as connection:
        connection.setblocking(False)
        await loop.sock_connect(connection, ("127.0.0.1", port))

        async def say() -> None:
            with contextlib.suppress(ConnectionError):  # it has refused already
                for part in parts:
                    await loop.sock_sendall(connection, part)
                    for _ in range(3):
                        await asyncio.sleep(0)

        saying = loop.create_task(say())
        heard = bytearray()
        try:
            async with asyncio.timeout(DEADLINE_S):
                with contextlib.suppress(ConnectionError):
                    while data := await loop.sock_recv(connection, 1 << 16):
                        heard += data
        finally:
            saying.cancel()
            await asyncio.wait([saying])
    # Whether a client is told to go on depends on how much of its body is there when it is looked for.
    return VARYING.sub(rb"\1\2\3*", bytes(heard)).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")


def is_the_same(one: bytes, other: bytes) -> bool:
    """Compare what two lanes said.

    aiohttp forgets requests that came in one read with rubbish behind them, and answers the rubbish alone; what comes in one read
    is the kernel's to say. So before the same refusal, which closes the connection, one of them may have said more. The refusal
    quotes what stands before the fault in that read.
    """
    refused = [NO_HTTP.search(said) for said in (one, other)]
    if not all(refused):
        return one == other
    return begins_alike(one[: refused[0].start()], other[: refused[1].start()])


def begins_alike(one: Sequence[object], other: Sequence[object]) -> bool:
    """Tell whether the longer begins with the shorter: what was said, or what was done."""
    least = min(len(one), len(other))
    return one[:least] == other[:least]


async def try_conversations(site, make_activation, examples: int, *, derandomize: bool) -> None:
    """Have both lanes of a site talk to the same clients; fail where they say or do different things."""
    await site.put_hello(annotations=[{"key": "web-export", "value": True}])
    ended = make_activation(result=msgspec.Raw(b'{"a":1}'))
    site.invoker.answer = lambda _: ended
    site.limits = dataclasses.replace(site.limits, invocations_per_minute=10**6)
    loop = asyncio.get_running_loop()
    async with both(site) as lanes:

        async def tell(parts: list[bytes]) -> None:
            heard, calls = [], []
            for lane in lanes:
                site.invoker.calls.clear()
                heard.append(await converse(lane.port, parts))
                calls.append([(bytes(call.payload), call.blocking, call.action.name) for call in site.invoker.calls])
            assert all(each.startswith(b"HTTP/") for each in heard), parts  # aiohttp answers in the version that was asked in
            assert is_the_same(*heard), parts
            assert calls[0] == calls[1] if heard[0] == heard[1] else begins_alike(*calls), parts

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=derandomize,
            suppress_health_check=list(HealthCheck),
        )
        @given(parts=conversations(site.auth))
        def attempt(parts: list[bytes]) -> None:
            asyncio.run_coroutine_threadsafe(tell(parts), loop).result()

        await asyncio.to_thread(attempt)


async def test_both_lanes_say_and_do_the_same(site, make_activation):
    await try_conversations(site, make_activation, 200, derandomize=True)


@pytest.mark.long
async def test_both_lanes_say_and_do_the_same_in_thousands_of_conversations(site, make_activation):
    await try_conversations(site, make_activation, 1500, derandomize=False)
