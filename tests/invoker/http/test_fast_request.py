"""Requests of the fast lane: taken off the bytes that came, or found to be another lane's; and their bodies, as they come."""

from __future__ import annotations

import asyncio

import pytest

from invoker.http.fast_request import FastRequest

TARGET = b"/api/v1/namespaces/_/actions/hello?blocking=true"
LIMIT = 1000


def head(*lines: bytes, target: bytes = TARGET, method: bytes = b"POST", version: bytes = b"HTTP/1.1") -> bytes:
    return b"\r\n".join([b" ".join((method, target, version)), b"Host: node", *lines, b"", b""])


OTHER_LANES = {
    "cut-off": head()[:-1],
    "another-method": head(method=b"PUT"),
    "a-web-action": head(target=b"/api/v1/web/anna/default/hello"),
    "a-trigger": head(target=b"/api/v1/namespaces/_/triggers/hello"),
    "http-1.0": head(version=b"HTTP/1.0"),
    "no-host": head().replace(b"Host: node\r\n", b""),
    "two-hosts": head(b"Host: other"),
    "a-header-twice": head(b"X-A: 1", b"x-a: 2"),
    "closes": head(b"Connection: close"),
    "chunked": head(b"Transfer-Encoding: chunked"),
    "packed": head(b"Content-Encoding: gzip", b"Content-Length: 1") + b"x",
    "expects": head(b"Expect: 100-continue", b"Content-Length: 1") + b"x",
    "upgrades": head(b"Connection: Upgrade", b"Upgrade: websocket"),
    "length-no-number": head(b"Content-Length: seven"),
    "length-below-0": head(b"Content-Length: -1"),
    "too-long": head(b"Content-Length: %d" % (LIMIT + 1)),
    "not-ascii": head(b"X-Name: J\xc3\xbcrgen"),
    "nul": head(b"X-Name: a\0b"),
    "nul-in-target": head(target=b"/api/v1/namespaces/_/actions/a\0b"),
    "no-header": head(b"not a header"),
    "101-headers": head(*(b"X-%d: 1" % number for number in range(100))),
}


def parsed(data: bytes) -> tuple[FastRequest, bytes]:
    found = FastRequest.parse(data, LIMIT)
    assert found is not None
    return found


def with_body(here: bytes, length: int) -> FastRequest:
    """A request of whose body only a part is here."""
    request, rest = parsed(head(b"Content-Length: %d" % length) + here)
    assert rest == b""
    return request


def test_a_request_is_taken_off_with_its_body_and_what_is_behind_it_is_left():
    request, rest = parsed(head(b"Content-Length: 7", b"X-Thing:  some \t") + b'{"x":1}POST /next')
    assert (request.method, request.target) == ("POST", TARGET.decode())
    assert request.headers == {"host": "node", "content-length": "7", "x-thing": "some"}
    assert (request.body_is_here(), request.take_body(), request.declared_length) == (True, b'{"x":1}', 7)
    assert rest == b"POST /next"


def test_without_a_length_there_is_no_body_and_all_that_follows_is_the_next_request():
    request, rest = parsed(head() + b"POST /next")
    assert (request.body_is_here(), request.take_body(), request.declared_length) == (True, b"", None)
    assert rest == b"POST /next"


@pytest.mark.parametrize("data", OTHER_LANES.values(), ids=OTHER_LANES)
def test_what_is_unusual_or_not_whole_or_no_invocation_is_left_to_the_other_lane(data: bytes):
    assert FastRequest.parse(data, LIMIT) is None


def test_a_head_of_the_longest_that_the_other_lane_takes_in_a_line_is_taken_and_one_byte_more_is_not():
    def of_length(length: int) -> bytes:
        return head(b"X-Long: " + b"x" * (length - len(head(b"X-Long: "))))

    assert FastRequest.parse(of_length(8190), LIMIT) is not None
    assert FastRequest.parse(of_length(8191), LIMIT) is None


def test_keep_alive_may_be_said_and_a_body_as_long_as_the_limit_may_come():
    request, _ = parsed(head(b"Connection: Keep-Alive", b"Content-Length: %d" % LIMIT))
    assert not request.body_is_here()


def test_what_a_head_says_is_found_once_for_all_requests_that_begin_alike():
    first, second = (parsed(head(b"Content-Length: 1") + body)[0] for body in (b"1", b"2"))
    assert first.headers is second.headers
    assert (first.take_body(), second.take_body()) == (b"1", b"2")


async def test_a_body_in_pieces_is_waited_for_and_what_is_behind_its_end_is_given_back():
    request = with_body(b"ab", 6)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        collected = group.create_task(request.collect_body(LIMIT))
        await asyncio.sleep(0)
        assert request.feed(b"cd") == b""
        assert not request.body_is_here()
        assert request.feed(b"efPOST") == b"POST"
    assert request.body_is_here()
    assert collected.result() == b"abcdef"
    assert request.feed(b"more") == b"more", "that is the next request's"


async def test_a_client_that_goes_is_told_to_who_waits_for_its_body_and_to_who_comes_to_wait():
    request = with_body(b"ab", 6)
    async with asyncio.timeout(30):
        waiting = asyncio.ensure_future(request.collect_body(LIMIT))  # noqa: TID251 - its end is looked at here
        await asyncio.sleep(0)
        request.break_off()
        with pytest.raises(ConnectionResetError):
            await waiting
        with pytest.raises(ConnectionResetError):
            await request.wait_arrived()
    request.break_off()


async def test_of_a_body_that_nobody_reads_nothing_is_kept_and_its_end_is_found_all_the_same():
    request = with_body(b"ab", 6)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(request.drop_body())
        await asyncio.sleep(0)
        assert request.feed(b"cdefPOST") == b"POST"
    assert request.body_is_here()
    assert request.take_body() == b""
