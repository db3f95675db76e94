"""Two lanes, one behaviour: every kind of request goes through both, and the bytes that come back are compared."""

import asyncio
import itertools
import re
import socket
from types import SimpleNamespace

import msgspec
import pytest
from lanes import both, read_response, same, serving, status_of

from invoker.activation import Status
from invoker.errors import IdempotencyConflict, NotAuthorised
from invoker.http import front
from invoker.http.front import build_front
from pool.errors import PlatformError, PoolClosed, PoolOverloaded
from pool.model import ContainerId

TARGET = "/api/v1/namespaces/_/actions/hello"


@pytest.fixture
async def lanes(site):
    await site.put_hello()
    async with both(site) as (fast, slow):
        yield fast, slow


@pytest.fixture
def fast(lanes):
    return lanes[0]


def request(site, body=b'{"a":1}', *headers, method="POST", target=TARGET, version="1.1", auth=None, kind="application/json"):
    lines = [
        f"{method} {target} HTTP/{version}",
        "Host: node",
        f"Authorization: {auth or site.auth}",
        *([f"Content-Type: {kind}"] if kind else []),
        *([f"Content-Length: {len(body)}"] if body is not None else []),
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def fails(error):
    def answer(_):
        raise error

    return answer


# --- one behaviour


@pytest.mark.parametrize(
    ("status", "fields", "options"),
    [
        (200, {}, {"target": TARGET + "?blocking=true"}),
        (200, {}, {"target": TARGET + "?blocking=true&result=true"}),
        (200, {}, {"target": "/api/v1/namespaces/guest/actions/hello?blocking=true"}),
        (200, {}, {"target": "/api/v1/namespaces/%5F/actions/hell%6F?blocking=true"}),
        (502, {"status": Status.APPLICATION_ERROR}, {"target": TARGET + "?blocking=true"}),
        (500, {"status": Status.INTERNAL_ERROR}, {"target": TARGET + "?blocking=true"}),
        (200, {}, {"target": TARGET + "?blocking=true", "body": b""}),
        (200, {}, {"target": TARGET + "?blocking=true", "body": None, "kind": None}),
        (200, {}, {"target": TARGET + "?blocking=true", "kind": "Application/JSON; charset=utf-8 "}),
    ],
)
async def test_a_finished_activation_is_answered_the_same(site, lanes, make_activation, status, fields, options):
    activation = make_activation(**fields)
    site.invoker.answer = lambda _: activation
    (answer,) = await same(lanes, request(site, **options))
    assert status_of(answer) == status
    assert len(site.invoker.calls) == 2
    assert site.invoker.calls[0].payload == site.invoker.calls[1].payload


@pytest.mark.parametrize(
    ("status", "headers", "options"),
    [
        (202, [], {}),
        (202, ["Idempotency-Key: k"], {}),
        (400, ["Idempotency-Key: " + "k" * 257], {}),
        (202, ["X-Request-ID: my-id"], {}),
        (202, ["X-Request-ID: sid_mine"], {}),
        (202, ["Accept: application/json"], {}),
        (202, ["Connection: keep-alive"], {}),
        (202, ["Connection: close"], {}),
        (202, ["X-Odd: caf\u00e9"], {}),
        (202, ["X-Twice: 1", "x-twice: 2"], {}),
        (202, ["Upgrade: h2c", "Connection: Upgrade"], {}),
        (202, [], {"version": "1.0"}),
        (202, ["Connection: keep-alive"], {"version": "1.0"}),
        (400, [], {"body": b"{"}),
        (400, [], {"body": b"[1]"}),
        (400, [], {"body": b'{"a":"\xff"}'}),
        (400, [], {"target": TARGET + "?blocking=perhaps"}),
        (400, [], {"target": TARGET + "?timeout=0"}),
        (401, [], {"auth": "Basic bm86Ym9keQ=="}),
        (401, [], {"auth": "Bearer x"}),
        (403, [], {"target": "/api/v1/namespaces/other/actions/hello"}),
        (400, [], {"target": "/api/v1/namespaces/$x/actions/hello"}),
        (404, [], {"target": "/api/v1/namespaces/_/actions/none"}),
        (404, [], {"target": "/api/v1/namespaces/_/actions/a/b/c"}),
        (400, [], {"target": "/api/v1/namespaces/_/actions/a%2Fb"}),
        (406, ["Accept: text/html"], {}),
        (413, [], {"body": b'"' + b"x" * 2**20 + b'"'}),
        (415, [], {"kind": "text/plain"}),
        (415, [], {"kind": None}),
        (400, ["Host: twice"], {}),
        (400, ["Content-Length: 7"], {}),
        (400, ["Content-Length : 7"], {}),
        (400, ["X-Nul: a\0b"], {}),
        (400, ["X-Long: " + "x" * 9000], {}),
        (202, [f"X-{number}: y" for number in range(110)], {}),
        (400, [f"X-{number}: y" for number in range(130)], {}),
        (400, [], {"version": "9.9"}),
        (400, [], {"method": "post"}),
        (400, [], {"target": TARGET + " x"}),
    ],
)
async def test_a_request_is_answered_the_same(site, lanes, status, headers, options):
    (answer,) = await same(lanes, request(site, options.pop("body", b'{"a":1}'), *headers, **options))
    assert status_of(answer) == status


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (503, PoolOverloaded(retry_after_s=3.0)),
        (503, PoolClosed()),
        (409, IdempotencyConflict()),
        (403, NotAuthorised()),
        (500, PlatformError()),
        (500, ZeroDivisionError()),
    ],
)
async def test_a_failure_is_answered_the_same(site, lanes, status, error):
    site.invoker.answer = fails(error)
    (answer,) = await same(lanes, request(site))
    assert status_of(answer) == status


async def test_a_failure_that_bears_an_activation_is_answered_the_same(site, lanes):
    error = PlatformError()
    error.activation_id = "a" * 32
    site.invoker.answer = fails(error)
    (answer,) = await same(lanes, request(site))
    assert b"x-openwhisk-activation-id: " + b"a" * 32 in answer


async def test_too_many_at_once_are_refused_the_same(site, lanes):
    site.invoker.running = 10**6
    (answer,) = await same(lanes, request(site))
    assert status_of(answer) == 429


async def test_too_many_in_a_minute_are_refused_the_same(site, lanes):
    site.grant(invocations_per_minute=1)
    answers = await same(lanes, request(site), request(site), answers=2)
    assert [status_of(each) for each in answers] == [202, 429]


async def test_a_body_in_pieces_is_answered_the_same(site, lanes):
    whole = request(site, b'{"a":"' + b"x" * 300_000 + b'"}')
    head = whole.index(b"\r\n\r\n") + 4
    for cuts in ((head,), (head + 1,), (head + 3, 100_000, 200_000)):
        parts = [whole[begin:end] for begin, end in itertools.pairwise((0, *cuts, len(whole)))]
        (answer,) = await same(lanes, *parts)
        assert status_of(answer) == 202
    assert {bytes(call.payload) for call in site.invoker.calls} == {whole[head:]}


async def test_a_head_in_pieces_is_answered_the_same(site, lanes):
    whole = request(site)
    for cut in (3, 30, whole.index(b"\r\n\r\n") + 2):
        (answer,) = await same(lanes, whole[:cut], whole[cut:])
        assert status_of(answer) == 202


async def test_a_chunked_body_is_answered_the_same(site, lanes):
    (answer,) = await same(lanes, request(site, None, "Transfer-Encoding: chunked"), b'7\r\n{"a":1}\r\n0\r\n\r\n')
    assert status_of(answer) == 202


async def test_a_client_that_waits_to_be_told_to_go_on_is_answered_the_same(site, lanes):
    whole = request(site, b'{"a":1}', "Expect: 100-continue")
    answers = await same(lanes, whole[:-7], whole[-7:], answers=2)
    assert [status_of(each) for each in answers] == [100, 202]


async def test_pipelined_requests_are_answered_the_same_and_in_order(site, lanes):
    requests = b"".join(request(site, b'{"a":1}', f"X-Request-ID: id-{number}") for number in range(3))
    answers = await same(lanes, requests, answers=3)
    assert [re.search(rb"X-Request-ID: id-(\d)", each)[1] for each in answers] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("apart", [False, True])
async def test_a_mixture_on_one_connection_is_answered_the_same(site, lanes, apart):
    mixture = [
        request(site),
        request(site, None, method="GET"),
        request(site),
        request(site, None, method="GET", target="/ping"),
        request(site, None, method="POST", target="/nowhere"),
        request(site, b'{"a":1}', "Connection: close"),
    ]
    answers = await same(lanes, *(mixture if apart else [b"".join(mixture)]), answers=6)
    assert [status_of(each) for each in answers] == [202, 200, 202, 200, 405, 202]


async def test_rubbish_behind_a_request_is_answered_the_same(site, lanes):
    answers = await same(lanes, request(site), b"rubbish\r\n\r\n", answers=2)
    assert [status_of(each) for each in answers] == [202, 400]


async def test_rubbish_that_came_together_with_a_request_does_not_cost_it_its_answer(site, fast):
    """Unlike in aiohttp, whose parser forgets what it has read before an error."""
    answers, closed = await fast.exchange(request(site) + b"rubbish\r\n\r\n", answers=2)
    assert [status_of(each) for each in answers] == [202, 400]
    assert closed


async def test_a_refusal_before_the_body_has_come_leaves_the_connection_usable(site, lanes):
    whole = request(site, auth="Basic bm86Ym9keQ==")
    answers = await same(lanes, whole[:-7], whole[-7:] + request(site), answers=2)
    assert [status_of(each) for each in answers] == [401, 202]


async def test_a_body_that_does_not_come_is_answered_the_same(site, lanes, monkeypatch):
    monkeypatch.setattr("invoker.http.exchange.BODY_WAIT_S", 0.02)
    (answer,) = await same(lanes, request(site)[:-3])
    assert status_of(answer) == 408


# --- which lane


async def test_invocations_stay_in_the_fast_lane_and_anything_else_leaves_it_for_good(site, fast):
    async with fast.connection() as (reader, writer):
        for method, is_fast in (("POST", True), ("POST", True), ("GET", False), ("POST", False)):
            writer.write(request(site, method=method))
            await read_response(reader)
            assert len(fast.server._open) == is_fast
            assert len(fast.server.connections) == (not is_fast)
    await until(lambda: not fast.server._tasks)


async def until(condition):
    """Wait for what other tasks of this loop bring about."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0)


# --- the short way


class Held:
    """An invoker whose calls on the short way end when they are told to."""

    def __init__(self, site):
        self.ends, self.accepted = [], site.invoker.answer
        site.invoker.start_short = lambda _call, _found, on_end: self.ends.append(on_end)

    def end(self, activation):
        """End the oldest."""
        self.ends.pop(0)(SimpleNamespace(done=activation, error=None))


BLOCKING = TARGET + "?blocking=true"


async def test_calls_of_both_ways_are_answered_in_the_order_they_came_in(site, fast, make_activation):
    held = Held(site)
    short, long = request(site, target=BLOCKING), request(site)
    async with fast.connection() as (reader, writer):
        writer.write(short + long + short + short + long)
        for status in (200, 202, 200, 200, 202):
            if status == 200:
                await until(lambda: held.ends)
                assert len(held.ends) == 1, "one at a time"
                held.end(make_activation())
            assert status_of(await read_response(reader)) == status
        assert fast.server.short == set()


async def test_a_call_of_the_short_way_begins_no_task(site, fast, make_activation):
    held = Held(site)
    async with fast.connection() as (reader, writer):
        for _ in range(3):
            writer.write(request(site, target=BLOCKING))
            await until(lambda: held.ends)
            assert len(fast.server.short) == 1
            held.end(make_activation())
            assert status_of(await read_response(reader)) == 200
        assert not fast.server._tasks
        writer.write(request(site))
        assert status_of(await read_response(reader)) == 202
        writer.write(request(site, target=BLOCKING))
        await until(lambda: held.ends)
        held.end(make_activation())
        assert status_of(await read_response(reader)) == 200


async def test_replies_of_one_turn_are_sent_together_at_its_end_and_a_lone_one_at_once(site, fast, make_activation, monkeypatch):
    held, seen = Held(site), []
    send = front._Connection._send
    monkeypatch.setattr(front._Connection, "_send", lambda *of_it: (seen.append("sent"), send(*of_it)))
    async with fast.connection() as (one, to_one), fast.connection() as (two, to_two):
        for writer in (to_one, to_two):
            writer.write(request(site, target=BLOCKING))
        await until(lambda: len(held.ends) == 2)
        for _ in range(2):
            held.end(make_activation())
            seen.append("ended")
        assert len(fast.server.short) == 2, "they are in flight until they are sent"
        for reader in (one, two):
            assert status_of(await read_response(reader)) == 200
        to_one.write(request(site, target=BLOCKING))
        await until(lambda: held.ends)
        held.end(make_activation())
        seen.append("ended")
        assert status_of(await read_response(one)) == 200
    assert seen == ["ended", "ended", "sent", "sent", "sent", "ended"]


async def test_a_client_that_hangs_up_before_its_turn_has_ended_costs_the_others_nothing(site, fast, make_activation):
    held = Held(site)
    async with fast.connection() as (reader, writer), fast.connection() as (_, to_other):
        to_other.write(request(site, target=BLOCKING))
        await until(lambda: held.ends)
        writer.write(request(site, target=BLOCKING))
        await until(lambda: len(held.ends) == 2)
        held.end(make_activation())
        to_other.transport.abort()
        held.end(make_activation())
        assert status_of(await read_response(reader)) == 200
    await until(lambda: not fast.server.short and not fast.server._open)


async def test_a_client_that_hangs_up_does_not_end_its_call_on_the_short_way(site, fast, make_activation):
    held = Held(site)
    async with fast.connection() as (_, writer):
        writer.write(request(site) + request(site, target=BLOCKING))
        await until(lambda: held.ends)
    await until(lambda: not fast.server._open)
    held.end(make_activation())
    await until(lambda: not fast.server._tasks and not fast.server.short)


async def test_a_client_that_does_not_read_is_waited_for_on_the_short_way_too(site, fast, make_activation):
    site.grant(invocations_per_minute=10**9)
    held, large = Held(site), make_activation(result=msgspec.Raw(b'"' + b"x" * 1_000_000 + b'"'))
    async with fast.connection() as (reader, writer):
        count = 0
        while count < 40:  # until the buffers of both ends are full
            writer.write(request(site, target=BLOCKING))
            try:
                async with asyncio.timeout(0.3):
                    await until(lambda: held.ends)
            except TimeoutError:
                break
            held.end(large)
            count += 1
        assert 0 < count < 40
        for _ in range(count):
            assert status_of(await read_response(reader)) == 200
        await until(lambda: held.ends)
        held.end(make_activation())
        assert status_of(await read_response(reader)) == 200


async def test_many_that_are_refused_at_once_are_answered_in_order_and_the_next_is_served(site, fast, make_activation):
    held, refusals = Held(site), iter([PoolOverloaded("busy")] * 5)
    start = site.invoker.start_short

    def refuse(*call):
        if (refusal := next(refusals, None)) is not None:
            raise refusal
        start(*call)

    site.invoker.start_short = refuse
    async with fast.connection() as (reader, writer):
        writer.write(request(site, target=BLOCKING) * 6)
        for _ in range(5):
            assert status_of(await read_response(reader)) == 503
        await until(lambda: held.ends)
        held.end(make_activation())
        assert status_of(await read_response(reader)) == 200
        assert not fast.server.short


async def test_an_answer_that_cannot_be_made_is_a_failure_of_this_request_alone(site, fast, make_activation, caplog):
    held = Held(site)
    async with fast.connection() as (reader, writer):
        writer.write(request(site, target=BLOCKING))
        await until(lambda: held.ends)
        held.ends.pop(0)(SimpleNamespace(done="no activation", error=None, activation_id="a" * 32))
        assert status_of(await read_response(reader)) == 500
        assert "the answer of activation aaaa" in caplog.text
        writer.write(request(site, target=BLOCKING))
        await until(lambda: held.ends)
        held.end(make_activation())
        assert status_of(await read_response(reader)) == 200


async def test_the_end_waits_for_a_call_on_the_short_way_and_closes_its_connection(site, fast, make_activation):
    held = Held(site)
    async with fast.connection() as (busy, writer), asyncio.TaskGroup() as group:
        writer.write(request(site, target=BLOCKING) * 2)
        await until(lambda: held.ends)
        fast.server.pre_shutdown()
        end = group.create_task(fast.server.shutdown(5))
        await asyncio.sleep(0)
        assert not end.done()
        held.end(make_activation())
        assert status_of(await read_response(busy)) == 200
        assert await busy.read() == b""  # the second was not begun
        await end
    assert held.ends == []


# --- its ends


class Slow:
    """An invoker that answers when it is told to."""

    def __init__(self, site):
        self.go_on, self.begun, self.ended = asyncio.Event(), 0, 0
        self.accepted = site.invoker.answer
        site.invoker.invoke = self.invoke

    async def invoke(self, call):
        self.begun += 1
        await self.go_on.wait()
        self.ended += 1
        return self.accepted(call)


async def test_a_client_that_hangs_up_does_not_end_its_call(site, fast):
    slow = Slow(site)
    async with fast.connection() as (_, writer):
        writer.write(request(site))
        await until(lambda: slow.begun)
    await until(lambda: not fast.server._open)
    slow.go_on.set()
    await until(lambda: slow.ended)
    await until(lambda: not fast.server._tasks)


async def test_a_client_that_hangs_up_in_its_body_runs_nothing_and_leaves_nothing(site, fast):
    async with fast.connection() as (_, writer):
        writer.write(request(site)[:-3])
        await until(lambda: fast.server._tasks)
    await until(lambda: not fast.server._tasks)
    assert site.invoker.calls == []


async def test_the_end_waits_for_the_request_in_flight_and_closes_idle_connections_at_once(site, fast):
    slow = Slow(site)
    async with fast.connection() as (idle, _), fast.connection() as (busy, writer), asyncio.TaskGroup() as group:
        writer.write(request(site) + request(site))
        await until(lambda: slow.begun and len(fast.server._open) == 2)
        fast.server.pre_shutdown()
        end = group.create_task(fast.server.shutdown(5))
        assert await idle.read() == b""
        assert not end.done()
        slow.go_on.set()
        assert status_of(await read_response(busy)) == 202
        assert await busy.read() == b""  # the second was not begun
        await end
    assert slow.begun == 1


async def test_the_end_does_not_wait_for_longer_than_it_is_told(site, fast):
    slow = Slow(site)
    async with fast.connection() as (reader, writer):
        writer.write(request(site))
        await until(lambda: slow.begun)
        fast.server.pre_shutdown()
        await fast.server.shutdown(0.01)
        assert await reader.read() == b""
    assert not fast.server._tasks
    assert slow.ended == 0


async def test_an_idle_connection_is_closed_after_its_time_and_a_busy_one_is_not(site):
    await site.put_hello()
    slow = Slow(site)
    async with (
        asyncio.TaskGroup() as group,
        serving(build_front(site.services(), group, keep_alive_s=0.05)) as fast,
        fast.connection() as (idle, _),
        fast.connection() as (busy, writer),
    ):
        writer.write(request(site))
        await until(lambda: slow.begun)
        assert await asyncio.wait_for(idle.read(), 30) == b""
        slow.go_on.set()
        assert status_of(await read_response(busy)) == 202
        assert await asyncio.wait_for(busy.read(), 30) == b""


async def test_pipelined_bytes_are_not_read_without_end_while_a_call_runs(site, fast):
    site.grant(invocations_per_minute=10**9)
    slow = Slow(site)
    async with fast.connection() as (reader, writer):
        writer.write(request(site))
        await until(lambda: slow.begun)
        writer.write(request(site) * 100_000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.2)
        (connection,) = fast.server._open
        assert 0 < len(connection._behind) < 2**20
        slow.go_on.set()
        for _ in range(2000):
            assert status_of(await read_response(reader)) == 202
        writer.transport.abort()


async def test_a_client_that_does_not_read_gets_no_further_answers(site, fast, make_activation):
    activation = make_activation(result=b'{"a":"' + b"x" * 2**20 + b'"}')
    site.invoker.answer = lambda _: activation
    site.grant(invocations_per_minute=10**9)
    async with fast.connection() as (reader, writer):
        writer.transport.pause_reading()
        writer.write(request(site, target=TARGET + "?blocking=true&result=true") * 100)
        await until(lambda: any(connection._writable for connection in fast.server._open))
        begun = len(site.invoker.calls)
        await asyncio.sleep(0.05)  # nothing happens, however long
        assert len(site.invoker.calls) == begun < 100
        writer.transport.resume_reading()
        for _ in range(100):
            assert status_of(await read_response(reader)) == 200


async def test_what_comes_through_a_containers_door_bears_its_name_in_both_lanes(site, group_front):
    front = group_front
    for extra in ((), ("Connection: close",)):
        outside, inside = socket.socketpair()
        inside.setblocking(False)
        front.serve_container(inside, ContainerId("c1"))
        reader, writer = await asyncio.open_connection(sock=outside)
        writer.write(request(site, b"{}", *extra))
        assert (await read_response(reader)).startswith(b"HTTP/1.1 202 ")
        writer.close()
    assert [call.origin for call in site.invoker.calls] == ["c1", "c1"]


@pytest.mark.parametrize(("method", "target"), [("GET", "/activation"), ("GET", "/activation/count"), ("POST", "/disable")])
async def test_what_is_for_operators_is_not_behind_a_containers_door(group_front, method, target):
    outside, inside = socket.socketpair()
    inside.setblocking(False)
    group_front.serve_container(inside, ContainerId("c1"))
    reader, writer = await asyncio.open_connection(sock=outside)
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
    assert status_of(await read_response(reader)) == 405
    writer.close()


async def test_a_door_that_was_left_at_once_harms_nobody(site, group_front):
    outside, inside = socket.socketpair()
    inside.setblocking(False)
    outside.close()
    group_front.serve_container(inside, ContainerId("c1"))
    assert site.invoker.calls == []


@pytest.fixture
async def group_front(site):
    """The front itself, running."""
    await site.put_hello()
    async with asyncio.TaskGroup() as group:
        front = build_front(site.services(), group)
        async with serving(front):
            yield front
