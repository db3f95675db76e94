"""Bad input on every route, through both lanes: no failure of the server, no stall for others, nothing done and nothing kept."""

import asyncio
import contextlib
import dataclasses
import gzip
import io

import msgspec
import pytest
from lanes import both, read_response, same, same_in_turn, serving, status_of

from invoker.http.api import build_server
from invoker.http.front import build_front
from invoker.http.limits import REQUEST_BYTES

NS = "/api/v1/namespaces/_"
MIB = 2**20
#: Every route that takes a body: method, target, the greatest length that it takes.
BODIES = [
    ("PUT", f"{NS}/actions/hello?overwrite=true", REQUEST_BYTES),
    ("PUT", f"{NS}/packages/tools?overwrite=true", REQUEST_BYTES),
    ("PUT", f"{NS}/triggers/tick?overwrite=true", REQUEST_BYTES),
    ("PUT", f"{NS}/rules/rule?overwrite=true", REQUEST_BYTES),
    ("POST", f"{NS}/rules/rule", REQUEST_BYTES),
    ("POST", f"{NS}/triggers/tick", MIB),
    ("POST", f"{NS}/actions/hello", MIB),
    ("POST", "/api/v1/web/guest/default/web", MIB),
    ("POST", "/api/guest/demo/web", MIB),
    ("POST", "/api/v1/web/whisk.system/apimgmt/createApi.http", MIB),
]


def routes(bodies):
    """Parametrize with routes."""
    ids = [f"{method} {target.partition('?')[0]}" for method, target, _ in bodies]
    return pytest.mark.parametrize(("method", "target", "limit"), bodies, ids=ids)


ROUTES = routes(BODIES)
#: Those with the small limit: 50 MB are the same code.
SMALL = [each for each in BODIES if each[2] == MIB]
HELLO = {"exec": {"kind": "python:3", "code": "x"}}


@pytest.fixture
async def full(site, make_activation):
    """A site with one of everything."""
    site.limits = dataclasses.replace(site.limits, invocations_per_minute=10**6)
    ended = make_activation(result=msgspec.Raw(b'{"body":"hi"}'))
    site.invoker.answer = lambda _: ended
    for path, body in (
        ("actions/hello", HELLO),
        ("actions/web", {**HELLO, "annotations": [{"key": "web-export", "value": True}]}),
        ("packages/tools", {}),
        ("triggers/tick", {}),
        ("rules/rule", {"trigger": "/_/tick", "action": "/_/hello"}),
    ):
        assert (await site.ask("PUT", path, body)).status == 200
    swagger = {"basePath": "/demo", "info": {"title": "x"}, "paths": {"/web": {"post": {"x-openwhisk": {"action": "web"}}}}}
    body = {"apidoc": {"namespace": "_", "swagger": swagger}}
    assert (await site.ask("POST", "/api/v1/web/whisk.system/apimgmt/createApi", body)).status == 200
    return site


@pytest.fixture
async def lanes(full):
    async with both(full) as pair:
        yield pair


def request(site, method, target, body=b"", *headers, length=True, kind="application/json"):
    lines = [
        f"{method} {target} HTTP/1.1",
        "Host: node",
        f"Authorization: {site.auth}",
        *([f"Content-Type: {kind}"] if kind else []),
        *([f"Content-Length: {len(body)}"] if length else []),
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def state(site):
    """What must be the same after a refusal."""
    return site.entities.everything(), site.apis.list(site.entities.get_namespace("guest").uuid), len(site.invoker.calls)


# --- lengths


@ROUTES
async def test_a_body_over_the_limit_is_refused_before_it_is_read(full, lanes, method, target, limit):
    before = state(full)
    (answer,) = await same(lanes, request(full, method, target, b"", f"Content-Length: {limit + 1}", length=False))
    assert status_of(answer) == 413
    assert f"Request larger than allowed: {limit + 1} > {limit}".encode() in answer
    assert state(full) == before


@pytest.mark.parametrize("length", ["-5", "+5", "5x", "0x5", "", "5, 5", "5 5", "1e3", "\N{SUPERSCRIPT FIVE}", "9" * 30])
async def test_a_length_that_is_none_is_no_http(full, lanes, length):
    before = state(full)
    header = f"Content-Length: {length}".encode().decode("latin-1")
    for method, target, _ in BODIES:
        (answer,) = await same(lanes, request(full, method, target, b"{}", header, length=False))
        assert status_of(answer) == 400, (method, target)
    assert state(full) == before


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: 2", "Content-Length: 3"],
        ["Content-Length: 2", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 2"],
        ["Transfer-Encoding: identity, chunked, gzip"],
        ["Transfer-Encoding: xchunked"],
    ],
)
async def test_a_length_that_is_ambiguous_is_no_http(full, lanes, headers):
    before = state(full)
    for method, target, _ in BODIES:
        (answer,) = await same(lanes, request(full, method, target, b"{}", *headers, length=False))
        assert status_of(answer) == 400, (method, target)
    assert state(full) == before


@ROUTES
async def test_a_body_that_is_shorter_than_told_does_nothing_and_leaves_nothing(full, lanes, method, target, limit):
    before = state(full)
    for lane in lanes:
        async with lane.connection() as (_, writer):
            writer.write(request(full, method, target, b"{}", "Content-Length: 50", length=False))
            await until(lambda lane=lane: open_connections(lane))
        await until(lambda lane=lane: not open_connections(lane))
    assert state(full) == before


@ROUTES
async def test_a_body_that_is_longer_than_told_is_the_beginning_of_rubbish(full, lanes, method, target, limit):
    for lane in lanes:
        async with lane.connection() as (reader, writer):
            writer.write(request(full, method, target, b"{}"))
            assert status_of(await read_response(reader)) < 500 or target.endswith("createApi.http")
            writer.write(b"}\r\n\r\n")
            assert status_of(await read_response(reader)) == 400
            assert await asyncio.wait_for(reader.read(), 20) == b""


@routes(SMALL)
async def test_chunks_without_end_are_refused_at_the_limit(full, lanes, method, target, limit):
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    before = state(full)
    for lane in lanes:
        async with lane.connection() as (reader, writer):
            writer.write(request(full, method, target, b"", "Transfer-Encoding: chunked", length=False))
            writer.writelines([chunk] * 17)
            assert status_of(await read_response(reader)) == 413
            writer.transport.abort()
    assert state(full) == before


@pytest.mark.parametrize(
    "chunk", [b"-1\r\n{}\r\n0\r\n\r\n", b"zz\r\n{}\r\n0\r\n\r\n", b"f" * 18 + b"\r\n{}", b"2\r\n{}xx0\r\n\r\n"]
)
async def test_chunks_that_are_none_are_no_http(full, lanes, chunk):
    before = state(full)
    for method, target, _ in BODIES:
        (answer,) = await same(lanes, request(full, method, target, chunk, "Transfer-Encoding: chunked", length=False))
        assert status_of(answer) == 400, (method, target)
    assert state(full) == before


@routes([BODIES[0], *SMALL])
async def test_a_small_body_that_unpacks_to_a_large_one_is_refused(full, lanes, method, target, limit):
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        for _ in range(limit // MIB + 1):
            file.write(b" " * MIB)
    before = state(full)
    (answer,) = await same(lanes, request(full, method, target, packed.getvalue(), "Content-Encoding: gzip"))
    assert status_of(answer) == 413
    assert state(full) == before


@ROUTES
async def test_a_body_that_does_not_come_is_given_up_and_stalls_nobody(full, lanes, monkeypatch, method, target, limit):
    monkeypatch.setattr("invoker.http.exchange.BODY_WAIT_S", 0.05)
    before = state(full)
    for lane in lanes:
        async with lane.connection() as (reader, writer), lane.connection() as (other, asking):
            writer.write(request(full, method, target, b"{", "Content-Length: 2", length=False))
            asking.write(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"pong" in await read_response(other)
            assert status_of(await read_response(reader)) == 408
            writer.transport.abort()
    assert state(full) == before


def open_connections(lane):
    return len(lane.server.connections) + len(getattr(lane.server, "_open", ()))


async def until(condition):
    """Wait for what other tasks of this loop bring about."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


# --- paths

PATHS = [
    "/api/v1/namespaces/_/{collection}/a%2Fb",
    "/api/v1/namespaces/_/{collection}/..",
    "/api/v1/namespaces/_/{collection}/../../../x",
    "/api/v1/namespaces/_/{collection}/%2e%2e%2f%2e%2e",
    "/api/v1/namespaces/../{collection}/x",
    "/api/v1/namespaces/%2e%2e/{collection}/x",
    "/api/v1/namespaces/_/{collection}/%00",
    "/api/v1/namespaces/_/{collection}/a%00b",
    "/api/v1/namespaces/_/{collection}/%C3%A9",
    "/api/v1/namespaces/_/{collection}/%c0%af",
    "/api/v1/namespaces/_/{collection}/%ff",
    "/api/v1/namespaces/_/{collection}/%",
    "/api/v1/namespaces/_/{collection}/%zz",
    "/api/v1/namespaces/_/{collection}/%0d%0aX:1",
    "/api/v1/namespaces/_/{collection}/" + "x" * 300,
    "/api/v1/namespaces/" + "x" * 300 + "/{collection}/x",
    "/api/v1/namespaces/%ff%00/{collection}/x",
    "/api/v1/namespaces/_//{collection}/x",
    "/api/v1/namespaces/_/{collection}//x",
    "/api/v1/namespaces/_/{collection}/x/y/z/",
    "//api/v1/namespaces/_/{collection}/x",
    "/api/v1/namespaces/_/{collection}/x;a=b",
    "http://elsewhere/api/v1/namespaces/_/{collection}/x",
    "/api/v1/namespaces/_/{collection}?limit=%ff&skip=%00",
    "/api/v1/namespaces/_/{collection}?" + "a=1&" * 1500,
    "/api/v1/web/guest/{collection}/%00.json/%00",
    "/api/v1/web/guest/{collection}/a%2Fb.json",
    "/api/v1/web/%ff/{collection}/x",
    "/api/v1/web/guest/" + "x" * 300 + "/{collection}.http",
    "/api/guest/demo/{collection}/%00",
    "/api/guest/../demo/{collection}",
    "/api/%ff/{collection}/x",
]


@pytest.mark.parametrize("path", PATHS)
async def test_no_path_makes_the_server_fail_nor_does_anything(full, lanes, path):
    before = state(full)
    asked = [
        request(full, method, path.format(collection=collection), b"{}" if method == "POST" else b"")
        for collection in ("actions", "packages", "triggers", "rules", "activations", "limits")
        for method in ("GET", "DELETE", "POST")
    ]
    for answer in await same_in_turn(lanes, asked):
        assert status_of(answer) < 500, answer
        assert b"\nX:1" not in answer
    assert state(full) == before


@pytest.mark.parametrize(
    "value",
    ["\xff", "a\xffb/json", "application/json; \xff", "\xc3\xa9/\xc3\xa9"],
    ids=["a byte", "in a type", "behind a type", "UTF-8"],
)
@pytest.mark.parametrize(
    "name",
    ["Content-Type", "Accept", "Authorization", "X-Request-ID", "Idempotency-Key", "Access-Control-Request-Headers"],
)
async def test_no_header_makes_the_server_fail(full, lanes, name, value):
    asked = []
    for method, target, _ in BODIES:
        parts = request(full, method, target, b"{}", kind=None).decode("latin-1").split("\r\n")
        kept = [line for line in parts if not line.startswith(f"{name}:")]
        kept.insert(1, f"{name}: {value}")
        asked.append("\r\n".join(kept).encode("latin-1"))
    ours, theirs = [await lane.ask_in_turn(asked) for lane in lanes]  # what is written twice is the next version, so bytes differ
    assert list(map(status_of, ours)) == list(map(status_of, theirs))
    for answer, (_, target, _) in zip(ours, BODIES, strict=True):
        assert status_of(answer) < 500 or target.endswith("createApi.http"), answer


# --- JSON

TEXTS = {
    "deep": b"[" * 400_000,
    "deep and whole": b'{"a":' + b"[" * 400_000 + b"]" * 400_000 + b"}",
    "a zero byte": b'{"a":"\x00"}',
    "no UTF-8": b'{"annotations":[{"key":"a","value":"\xff"}]}',
    "half a pair": b'{"a":"\\ud800"}',
    "half a pair as a name": b'{"\\ud800":1}',
    "a mark of byte order": b"\xef\xbb\xbf{}",
    "UTF-16": "{}".encode("utf-16"),
    "something behind": b"{} {}",
    "a comma too many": b'{"a":1,}',
    "NaN": b'{"a":NaN}',
    "a leading zero": b'{"a":01}',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
async def test_json_that_is_none_is_refused_and_does_nothing(full, lanes, text):
    before = state(full)
    answers = await same_in_turn(lanes, [request(full, method, target, text) for method, target, _ in BODIES])
    for answer, (method, target, _) in zip(answers, BODIES, strict=True):
        assert status_of(answer) == (502 if target.endswith("createApi.http") else 400), (method, target)
    assert state(full) == before


@pytest.mark.parametrize("number", ["9007199254740993", "-0", "1e400", "0.10", "123456789012345678901234567890.5e-7", "1E+2"])
async def test_numbers_pass_an_invocation_as_they_are_written(full, lanes, number):
    await same(lanes, request(full, "POST", f"{NS}/actions/hello", f'{{"a":{number}}}'.encode()))
    await same(lanes, request(full, "POST", "/api/v1/web/guest/default/web", f'{{"a":{number}}}'.encode()))
    assert all(f'"a":{number}'.encode() in bytes(call.payload) for call in full.invoker.calls)
    assert len(full.invoker.calls) == 4


@pytest.mark.parametrize("number", ["9007199254740993", "0.10", "123456789012345678901234567890"])
@pytest.mark.parametrize("path", ["actions/hello", "packages/tools", "triggers/tick"])
async def test_numbers_are_kept_as_they_are_written(full, path, number):
    body = f'{{"parameters":[{{"key":"a","value":{number}}}],"annotations":[{{"key":"b","value":[{number}]}}]}}'
    assert (await full.ask("PUT", f"{path}?overwrite=true", body)).status == 200
    text = (await full.ask("GET", path)).text
    assert f'"value":{number}' in text
    assert f'"value":[{number}]' in text


@pytest.mark.parametrize("field", ["parameters", "annotations"])
@pytest.mark.parametrize("path", ["actions/hello", "packages/tools", "triggers/tick"])
async def test_a_value_that_nobody_could_read_is_not_kept(full, path, field):
    before = state(full)
    for value in ("1e999", "[" * 50_000 + "]" * 50_000, '"\\ud800"'):
        body = f'{{"{field}":[{{"key":"web-export","value":{value}}}]}}'
        assert (await full.ask("PUT", f"{path}?overwrite=true", body)).status == 400
    assert state(full) == before


async def test_of_a_name_given_twice_the_last_counts(full, lanes):
    await same(lanes, request(full, "POST", "/api/v1/web/guest/default/web?a=0", b'{"a":1,"a":2}'))
    assert msgspec.json.decode(full.invoker.calls[-1].payload)["a"] == 2
    body = '{"parameters":[{"key":"a","value":1},{"key":"a","value":2}],"publish":false,"publish":true}'
    assert (await full.ask("PUT", "packages/tools?overwrite=true", body)).status == 200
    package = (await full.ask("GET", "packages/tools")).json
    assert (package["parameters"], package["publish"]) == ([{"key": "a", "value": 2}], True)


# --- many at once


async def test_many_requests_in_one_packet_are_answered_in_order(full, lanes):
    kinds = [("GET", f"{NS}/actions/hello", b""), ("POST", f"{NS}/actions/hello", b"{}"), ("GET", f"{NS}/nothing", b"")]
    packet = b"".join(request(full, *kinds[number % 3], f"X-Request-ID: n{number}") for number in range(60))
    answers = await same(lanes, packet, answers=60)
    assert [answer.partition(b"X-Request-ID: n")[2].partition(b"\r")[0] for answer in answers] == [b"%d" % n for n in range(60)]


async def test_half_a_head_stalls_nobody_and_is_given_up_when_the_client_goes(full, lanes):
    for lane in lanes:
        async with lane.connection() as (_, slow), lane.connection() as (other, asking):
            slow.write(b"POST /api/v1/namespaces/_/actions/hello HTTP/1.1\r\nHost: a\r\nX-")
            asking.write(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"pong" in await read_response(other)
        await until(lambda lane=lane: not open_connections(lane))


async def trickle(writer):
    """Send a head byte by byte, which never ends."""
    with contextlib.suppress(ConnectionError):
        writer.write(b"POST /api/v1/namespaces/_/actions/hello HTTP/1.1\r\nX: ")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)  # the pace of the client; nothing waits for it


@pytest.mark.parametrize("build", [build_front, lambda services, _, **options: build_server(services, **options)])
@pytest.mark.parametrize("before", [b"", b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n"])
async def test_a_head_that_comes_byte_by_byte_is_given_up_after_the_time_of_an_idle_connection(full, build, before):
    async with asyncio.TaskGroup() as group, serving(build(full.services(), group, keep_alive_s=0.3)) as lane:
        async with lane.connection() as (reader, writer):
            writer.write(before)
            if before:
                assert b"pong" in await read_response(reader)
            trickling = group.create_task(trickle(writer))
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 20) == b""
            trickling.cancel()
        await until(lambda: not open_connections(lane))
    assert not full.invoker.calls
