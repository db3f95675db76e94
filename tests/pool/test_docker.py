"""`DockerBackend` against engines that misbehave (scripted, on a Unix socket), and against a real one."""

import asyncio
import contextlib
import inspect
import json
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from pool import recipe
from pool.backend import Descriptors, FoundContainer
from pool.docker import DockerBackend, DockerHandle, split_reference
from pool.errors import ContainerStartFailed, ContainerUnkillable, EngineError, EngineUnavailable, ImageNotFound
from pool.guard import CallClass, Deadlines
from pool.model import ContainerId, ContainerSpec, LogTransport, Mount
from pool.netns import has_ended

A = ContainerId("invokerd-n-aaaaaaaaaaaa")
SPEC = ContainerSpec(namespace="n", uid=os.getuid(), gid=os.getgid(), image="sha256:1", kind="k", memory_mib=64)
FOREIGN = ContainerSpec(namespace="n", uid=1, gid=1, image="sha256:1", kind="k", memory_mib=64, logs=LogTransport.ATTACHED)
QUICK = Deadlines(create_s=0.3, remove_s=0.3, read_s=0.3, pull_s=0.4)


class Engine:
    """An engine that answers as told: `answers[verb path prefix] = (status, body)`, or a callable, or None for never."""

    def __init__(self, path: str) -> None:
        self.url = f"unix://{path}"
        self.path = path
        self.requests: list[tuple[str, str, dict[str, list[str]], Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: dict[str, Any] = {
            "GET /version": (200, {"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "20.10"}),
            "GET /info": (200, {"MemoryLimit": True}),
            "GET /_ping": (200, "OK"),
            "POST /containers/create": (201, {"Id": "e" * 64}),
            "POST /containers/eeee": (204, None),
            "GET /containers/eeee": (200, {"State": {"Pid": 0, "ExitCode": 3}}),
            "GET /containers/json": (200, []),
            "DELETE /containers/": (204, None),
        }
        self._server: asyncio.Server | None = None
        self._stopped = asyncio.Event()
        self._serving = 0
        self.connections = 0
        #: By verb and path: how many requests more it takes and closes the connection over.
        self.breaks: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._stopped.set()
        async with asyncio.timeout(5):
            while self._serving:
                await asyncio.sleep(0)

    def verbs(self) -> list[str]:
        return [f"{method} {path}" for method, path, _, _ in self.requests]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving += 1
        self.connections += 1
        try:
            while (line := await reader.readline()) and not self._stopped.is_set():
                method, target, _ = line.decode().split(" ")
                headers: dict[str, str] = {}
                while (header := await reader.readline()) not in (b"\r\n", b""):
                    name, _, value = header.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self._answer(method, target, headers, body, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self._serving -= 1

    async def _answer(self, method: str, target: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> None:
        url = urlsplit(target)
        path = "/" + url.path.split("/", 2)[2] if url.path.startswith("/v1.") else url.path
        self.requests.append((method, unquote(path), parse_qs(url.query), json.loads(body) if body else None))
        self.headers.append({**headers, "version": url.path.split("/")[1]})
        if self.breaks.get(f"{method} {path}", 0) > 0:
            self.breaks[f"{method} {path}"] -= 1
            writer.close()
            return
        known = [prefix for prefix in self.answers if f"{method} {path}".startswith(prefix)]
        answer = self.answers[max(known, key=len)] if known else (404, {"message": "page not found"})
        if isinstance(answer, Callable):
            answer = await answer()
        if answer is None:
            await self._stopped.wait()
            return
        status, content = answer
        if isinstance(content, bytes):
            writer.write(b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n%s" % (status, content))
            await writer.drain()
            writer.close()
            return
        data = b"" if content is None else json.dumps(content).encode()
        kind = "text/plain" if isinstance(content, str) else "application/json"
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        await writer.drain()


@pytest.fixture
async def engine(tmp_path):
    async with Engine(str(tmp_path / "engine.sock")) as engine:
        yield engine


async def opened(url: str, tmp_path, **changes) -> DockerBackend:
    settings = {"node": "n", "boot_id": "b", "run_dir": tmp_path / "containers", **changes}
    return await DockerBackend.open(url, **settings)


@pytest.fixture
async def backend(engine, tmp_path):
    backend = await opened(engine.url, tmp_path)
    yield backend
    await backend.close()


# ---- an engine that accepts and never answers


def a_handle() -> DockerHandle:
    child = os.pidfd_open(os.getpid())
    numbers = dict.fromkeys(("freeze", "frozen", "cpu", "memory_peak", "memory_stat", "log"), -1)
    return DockerHandle(A, "e" * 64, Descriptors(pid=os.getpid(), pidfd=child, **numbers), None)


async def read_logs(backend: DockerBackend) -> None:
    handle = a_handle()
    try:
        async for _ in backend.attach_logs(handle):
            pass
    finally:
        handle.close()


FOUND = FoundContainer(container_id=A, engine_id="e" * 64, running=True, labels=recipe.labels_of(SPEC, node="n", boot_id="b"))
#: Every verb that asks the engine. One that is missing here fails the test below.
VERBS: dict[str, Callable[[DockerBackend], Any]] = {
    "create": lambda backend: backend.create(A, SPEC),
    "adopt": lambda backend: backend.adopt(FOUND),
    "remove": lambda backend: backend.remove(A, None),
    "list_containers": lambda backend: backend.list_containers(),
    "resolve_image": lambda backend: backend.resolve_image("a", pull=True),
    "attach_logs": read_logs,
    "remove_image": lambda backend: backend.remove_image("sha256:1"),
    "ping": lambda backend: backend.ping(),
}
#: What cannot fail: it then does not know.
NEVER_RAISES = {"was_out_of_memory"}
NOT_THE_ENGINE = {"dial", "listen", "close", "open", "watch_events"}  # watch_events never ends; tested below


async def black_hole(path: str) -> asyncio.Server:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(4096):
                pass
        except ConnectionError:
            pass
        finally:
            writer.close()

    return await asyncio.start_unix_server(swallow, path)


def test_every_verb_is_tried_against_the_black_hole():
    public = {
        name
        for name, member in inspect.getmembers(DockerBackend)
        if not name.startswith("_") and (inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member))
    }
    assert public == set(VERBS) | NOT_THE_ENGINE | NEVER_RAISES


@pytest.mark.parametrize("verb", VERBS)
async def test_each_verb_ends_in_its_deadline_where_nobody_answers(verb, engine, tmp_path):
    backend = await opened(engine.url, tmp_path)
    backend.guard.deadlines = QUICK
    engine.answers = {f"{method} /": None for method in ("GET", "POST", "DELETE")}
    with pytest.raises(EngineUnavailable):
        async with asyncio.timeout(60):
            await VERBS[verb](backend)
    assert sum(counted.timeouts for counted in backend.calls.values()) >= 1
    await backend.close()


async def test_who_was_ended_for_its_memory_is_not_known_where_nobody_answers(engine, tmp_path):
    backend = await opened(engine.url, tmp_path)
    backend.guard.deadlines = QUICK
    engine.answers = {"GET /": None}
    async with asyncio.timeout(60):
        assert await backend.was_out_of_memory(A) is False
    await backend.close()


async def test_opening_where_nobody_answers_ends_in_the_deadline(tmp_path):
    hole = await black_hole(str(tmp_path / "hole.sock"))
    with pytest.raises(EngineUnavailable, match="version"):
        await opened(f"unix://{tmp_path}/hole.sock", tmp_path, deadlines=QUICK)
    hole.close()


async def test_an_engine_that_is_down_is_unavailable_at_once(tmp_path):
    with pytest.raises(EngineUnavailable):
        await opened(f"unix://{tmp_path}/nobody.sock", tmp_path)


async def test_a_sick_engine_is_not_asked_again_until_it_has_cooled(engine, backend):
    backend.guard.deadlines = QUICK
    engine.answers["GET /containers/json"] = None
    for _ in range(3):
        with pytest.raises(EngineUnavailable):
            await backend.list_containers()
    assert backend.guard.sick_classes() == [CallClass.READ]
    asked = len(engine.requests)
    with pytest.raises(EngineUnavailable, match="not asked for a while") as caught:
        await backend.ping()
    assert caught.value.retry_after_s is not None
    assert 1.0 <= caught.value.retry_after_s <= 5.0
    assert len(engine.requests) == asked


# ---- versions


@pytest.mark.parametrize(
    ("newest", "oldest", "chosen"), [("1.41", "1.12", "v1.41"), ("1.52", "1.44", "v1.47"), ("1.60", "1.50", "v1.50")]
)
async def test_the_newest_version_that_both_speak_is_used(engine, tmp_path, newest, oldest, chosen):
    engine.answers["GET /version"] = (200, {"ApiVersion": newest, "MinAPIVersion": oldest, "Version": "x"})
    backend = await opened(engine.url, tmp_path)
    assert backend.facts.api_version == chosen
    await backend.list_containers()
    assert engine.headers[-1]["version"] == chosen
    await backend.close()


async def test_an_engine_that_is_too_old_is_refused(engine, tmp_path):
    engine.answers["GET /version"] = (200, {"ApiVersion": "1.39", "MinAPIVersion": "1.12"})
    with pytest.raises(EngineError, match=r"1\.39"):
        await opened(engine.url, tmp_path)


async def test_a_url_that_is_no_local_engine_is_refused(tmp_path):
    with pytest.raises(EngineError, match="ssh"):
        await opened("ssh://host", tmp_path)


# ---- a create that fails


def files_open() -> int:
    """Descriptors that are no sockets: both ends of the engine's connections are in this process, and come and go."""
    links = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(str(link.readlink()))
    return len([target for target in links if not target.startswith("socket:")])


@pytest.mark.parametrize(
    ("step", "answer", "error"),
    [
        ("POST /containers/create", (404, {"message": "No such image"}), ImageNotFound),
        ("POST /containers/create", (500, {"message": "no space left"}), EngineError),
        ("POST /containers/create", (201, "rubbish"), EngineError),
        ("POST /containers/eeee", (400, {"message": "exec: not found"}), ContainerStartFailed),
        ("POST /containers/eeee", (500, {"message": "cgroup"}), EngineError),
        ("GET /containers/eeee", (200, {"State": {"Pid": 0, "ExitCode": 3}}), ContainerStartFailed),
        ("GET /containers/eeee", (200, {"State": {"Pid": 2**22 + 1}}), ContainerStartFailed),
        ("GET /containers/eeee", (200, {"State": {"Pid": os.getpid()}}), ContainerStartFailed),
        ("GET /containers/eeee", (500, {"message": "sick"}), EngineError),
    ],
)
async def test_a_create_that_fails_at_any_step_removes_what_was_made(engine, backend, tmp_path, step, answer, error):
    engine.answers[step] = answer
    before = files_open()
    with pytest.raises(error):
        await backend.create(A, SPEC)
    assert engine.verbs()[-1] == f"DELETE /containers/{A}"
    assert engine.requests[-1][2] == {"force": ["1"], "v": ["1"]}
    assert list((tmp_path / "containers").iterdir()) == []
    assert files_open() == before


@pytest.mark.parametrize("step", ["POST /containers/create", "POST /containers/eeee", "GET /containers/eeee"])
async def test_a_create_that_is_not_answered_does_not_wait_for_a_removal_that_would_not_be_either(
    engine, backend, tmp_path, step
):
    engine.answers[step] = None
    before = files_open()
    backend.guard.deadlines = QUICK
    with pytest.raises(EngineUnavailable):
        await backend.create(A, SPEC)
    backend.guard.deadlines = Deadlines()
    assert not [verb for verb in engine.verbs() if verb.startswith("DELETE")]
    del engine.answers[step]
    await backend.remove(A, None)  # as the pool does
    assert engine.verbs()[-1] == f"DELETE /containers/{A}"
    assert list((tmp_path / "containers").iterdir()) == []
    assert files_open() == before


async def test_a_request_whose_connection_broke_without_an_answer_is_sent_once_more(engine, backend):
    engine.breaks = {"POST /containers/create": 1}
    with pytest.raises(ContainerStartFailed):  # of the fake: the next steps were taken
        await backend.create(A, SPEC)
    assert engine.verbs().count("POST /containers/create") == 2
    engine.breaks = {"POST /containers/create": 2}
    with pytest.raises(EngineUnavailable):
        await backend.create(A, SPEC)
    assert engine.verbs().count("POST /containers/create") == 4


async def test_a_create_whose_answer_was_lost_goes_on_with_what_it_has_made(engine, backend):
    engine.breaks = {"POST /containers/create": 1}
    engine.answers["POST /containers/create"] = (409, {"message": "the name is already in use"})
    engine.answers[f"GET /containers/{A}/json"] = (200, {"Id": "e" * 64, "State": {"Pid": 0}})
    with pytest.raises(ContainerStartFailed):  # of the fake: the next steps were taken
        await backend.create(A, SPEC)
    assert f"POST /containers/{'e' * 64}/start" in engine.verbs()


async def test_each_request_has_a_connection_of_its_own(engine, backend):
    """An engine may close a kept one at any moment; a request that was just sent on it would be lost."""
    before = engine.connections
    for _ in range(3):
        await backend.ping()
    assert engine.connections == before + 3


async def test_a_cancelled_create_removes_what_was_made(engine, backend, tmp_path):
    engine.answers["POST /containers/eeee"] = None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await backend.create(A, SPEC)
    assert engine.verbs()[-1] == f"DELETE /containers/{A}"
    assert list((tmp_path / "containers").iterdir()) == []


async def test_a_create_asks_the_engine_three_times(engine, backend):
    with pytest.raises(ContainerStartFailed):
        await backend.create(A, SPEC)
    asked = [verb for verb in engine.verbs() if "containers/" in verb and not verb.startswith("DELETE")]
    assert asked == ["POST /containers/create", f"POST /containers/{'e' * 64}/start", f"GET /containers/{'e' * 64}/json"]
    sent = engine.requests[engine.verbs().index("POST /containers/create")]
    assert sent[2] == {"name": [A]}
    assert sent[3]["Labels"] == recipe.labels_of(SPEC, node="n", boot_id="b")


async def test_a_foreign_image_is_attached_before_it_starts(engine, backend):
    engine.answers["POST /containers/eeee"] = (200, b"")
    with pytest.raises(ContainerStartFailed):
        await backend.create(A, FOREIGN)
    verbs = engine.verbs()
    assert verbs.index(f"POST /containers/{'e' * 64}/attach") < verbs.index(f"POST /containers/{'e' * 64}/start")


async def test_a_container_whose_process_does_not_end_is_kept_from_the_engine_until_it_has(engine, backend, monkeypatch):
    monkeypatch.setattr("pool.docker.KILLED_WITHIN_S", 0.05)
    monkeypatch.setattr(DockerHandle, "kill", lambda _self: None)  # what SIGKILL does to a process in the kernel's hands
    process = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    numbers = dict.fromkeys(("freeze", "frozen", "cpu", "memory_peak", "memory_stat", "log"), -1)
    handle = DockerHandle(A, "e" * 64, Descriptors(pid=os.getpid(), pidfd=process, **numbers), None)
    asked = len(engine.requests)
    for _ in range(2):
        with pytest.raises(ContainerUnkillable, match=r"did not end within 0\.05 s; its process is in state R"):
            await backend.remove(A, handle)
    assert len(engine.requests) == asked
    os.eventfd_write(process, 1)
    await backend.remove(A, handle)
    assert engine.verbs()[asked:] == [f"DELETE /containers/{A}"]


async def test_a_removal_that_the_engine_refuses_is_told(engine, backend):
    engine.answers["GET /containers/invokerd"] = (200, {"State": {"Pid": 0}})
    engine.answers["DELETE /containers/"] = (409, {"message": "removal is already in progress"})
    with pytest.raises(EngineError, match="in progress"):
        await backend.remove(A, None)
    engine.answers["DELETE /containers/"] = (404, {"message": "no such container"})
    await backend.remove(A, None)


# ---- images

PIPE = (200, {"Id": "sha256:77", "Config": {"Labels": {"invokerd.protocol": "pipe", "invokerd.keep-alive-s": "86400"}}})


async def test_an_image_tells_how_it_speaks(engine, backend):
    engine.answers["GET /images/ours"] = PIPE
    engine.answers["GET /images/theirs"] = (200, {"Id": "sha256:78", "Config": {"Labels": None}})
    engine.answers["GET /images/odd"] = (200, {"Id": "sha256:79", "Config": {"Labels": {"invokerd.keep-alive-s": "soon"}}})
    ours, theirs, odd = [await backend.resolve_image(name, pull=True) for name in ("ours:1", "theirs", "odd")]
    assert (ours.image_id, ours.logs, ours.server_keep_alive_s) == ("sha256:77", LogTransport.PIPE, 86400.0)
    assert (theirs.image_id, theirs.logs, theirs.server_keep_alive_s) == ("sha256:78", LogTransport.ATTACHED, 1.0)
    assert odd.server_keep_alive_s == 1.0
    assert not [verb for verb in engine.verbs() if verb.startswith("POST")]  # what is here is never pulled


@pytest.mark.parametrize("reference", ["", "../containers/x", "a/../../info", "a?b", "a#b", "a b", "-a", "a" * 600, "a\n"])
async def test_what_is_no_reference_never_reaches_the_engine(engine, backend, reference):
    asked = len(engine.requests)
    with pytest.raises(ImageNotFound):
        await backend.resolve_image(reference, pull=True)
    assert len(engine.requests) == asked


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("python", ("python", "latest")),
        ("python:3", ("python", "3")),
        ("host:5000/a/b", ("host:5000/a/b", "latest")),
        ("host:5000/a/b:v1", ("host:5000/a/b", "v1")),
        ("a/b@sha256:12", ("a/b", "sha256:12")),
        ("a/b:v1@sha256:12", ("a/b:v1", "sha256:12")),
    ],
)
def test_a_reference_is_split_into_name_and_tag(reference, parts):
    assert split_reference(reference) == parts


def pulls(engine: Engine, said: bytes = b'{"status":"done"}\n') -> asyncio.Event:
    """Let a pull of `r/i` succeed once the event is set."""
    go = asyncio.Event()

    async def pull():
        await go.wait()
        engine.answers["GET /images/r/i"] = PIPE
        return 200, said

    engine.answers["GET /images/r/i"] = (404, {"message": "no such image"})
    engine.answers["POST /images/create"] = pull
    return go


async def test_an_absent_image_is_pulled_once_for_all_who_wait(engine, backend):
    go = pulls(engine)
    async with asyncio.TaskGroup() as group:
        waiters = [group.create_task(backend.resolve_image("r/i:2", pull=True)) for _ in range(5)]
        while "POST /images/create" not in engine.verbs():
            await asyncio.sleep(0)
        go.set()
    assert {waiter.result().image_id for waiter in waiters} == {"sha256:77"}
    (pulled,) = [request for request in engine.requests if request[1] == "/images/create"]
    assert pulled[2] == {"fromImage": ["r/i"], "tag": ["2"]}


async def test_who_keeps_images_is_told_of_each_that_was_pulled(engine, backend):
    told = []
    backend.on_pulled = lambda reference, image_id: told.append((reference, image_id))
    engine.answers["GET /images/here"] = PIPE
    await backend.resolve_image("here", pull=True)
    assert told == []
    answers = iter([(404, {"message": "no such image"}), PIPE])

    async def absent_then_here():
        return next(answers, PIPE)

    engine.answers["GET /images/far"] = absent_then_here
    engine.answers["POST /images/create"] = (200, b'{"status":"Pulling"}\n')
    await backend.resolve_image("far", pull=True)
    assert told == [("far", "sha256:77")]


@pytest.mark.parametrize("answer", [(200, []), (404, {"message": "no such image"})])
async def test_an_image_is_removed_with_all_its_names_and_gone_already_is_success(engine, backend, answer):
    engine.answers["DELETE /images/"] = answer
    await backend.remove_image("sha256:77")
    assert engine.verbs()[-1] == "DELETE /images/sha256:77"
    assert engine.requests[-1][2] == {"force": ["1"]}


async def test_an_image_that_is_used_stays_and_that_is_told(engine, backend):
    engine.answers["DELETE /images/"] = (409, {"message": "image is being used by running container"})
    with pytest.raises(EngineError, match="being used"):
        await backend.remove_image("sha256:77")


async def test_a_pull_whose_first_waiter_goes_away_is_led_by_the_next(engine, backend):
    go = pulls(engine)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(backend.resolve_image("r/i", pull=True))
        while "POST /images/create" not in engine.verbs():
            await asyncio.sleep(0)
        second = group.create_task(backend.resolve_image("r/i", pull=True))
        while engine.verbs().count("GET /images/r/i/json") < 2:
            await asyncio.sleep(0)
        first.cancel()
        go.set()
    assert first.cancelled()
    assert second.result().image_id == "sha256:77"


async def test_a_waiter_that_goes_away_does_not_end_the_pull_for_the_others(engine, backend):
    go = pulls(engine)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(backend.resolve_image("r/i", pull=True))
        while "POST /images/create" not in engine.verbs():
            await asyncio.sleep(0)
        second = group.create_task(backend.resolve_image("r/i", pull=True))
        while engine.verbs().count("GET /images/r/i/json") < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        second.cancel()
        go.set()
    assert first.result().image_id == "sha256:77"


async def test_credentials_go_to_the_registry_and_are_not_shared(engine, backend):
    import base64

    go = pulls(engine)
    async with asyncio.TaskGroup() as group:
        for name in ("ana", "bob"):
            credentials = {"username": name, "password": "x?>"}
            group.create_task(backend.resolve_image("r/i", pull=True, credentials=credentials))
        while engine.verbs().count("POST /images/create") < 2:
            await asyncio.sleep(0)
        go.set()
    sent = [headers["x-registry-auth"] for headers in engine.headers if "x-registry-auth" in headers]
    assert {json.loads(base64.urlsafe_b64decode(auth))["username"] for auth in sent} == {"ana", "bob"}


@pytest.mark.parametrize(
    "answer",
    [
        (404, {"message": "repository does not exist"}),
        (500, {"message": "dial tcp: no such host"}),
        (200, b'{"status":"Pulling"}\n{"errorDetail":{"message":"denied"},"error":"denied"}\n'),
        None,
    ],
)
async def test_a_pull_that_fails_says_that_the_image_is_not_to_be_had(engine, backend, answer):
    engine.answers["GET /images/r/i"] = (404, {"message": "no such image"})
    engine.answers["POST /images/create"] = answer
    backend.guard.deadlines = Deadlines(pull_s=0.3 if answer is None else 600.0)
    with pytest.raises(ImageNotFound, match="pull"):
        await backend.resolve_image("r/i", pull=True)
    assert backend.guard.sick_classes() == []


# ---- events


async def test_the_event_stream_is_opened_again_and_says_so(engine, backend):
    event = json.dumps({"Action": "die", "timeNano": 1_700_000_000_123_456_789}).encode() + b"\n"
    engine.answers["GET /events"] = (200, event)
    heard = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(backend.watch_events(heard.release))
        async with asyncio.timeout(5):
            for _ in range(3):  # the event, the reconnect, the event
                await heard.acquire()
        watching.cancel()
    streams = [request for request in engine.requests if request[1] == "/events"]
    assert streams[1][2]["since"] == ["1700000000.123456789"]
    assert json.loads(streams[0][2]["filters"][0])["label"] == ["invokerd.node=n"]


async def test_the_event_stream_survives_an_engine_that_goes_away(engine, backend):
    engine.answers["GET /events"] = (500, {"message": "shutting down"})
    changes = []
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(backend.watch_events(lambda: changes.append(1)))
        async with asyncio.timeout(5):
            while engine.verbs().count("GET /events") < 2:
                await asyncio.sleep(0.01)
        assert not watching.done()
        watching.cancel()
    assert changes == []


# ---- on a real engine


@pytest.fixture
async def real(engine_url, tmp_path):
    backend = await DockerBackend.open(engine_url, node=f"test-{uuid.uuid4().hex[:6]}", boot_id="b", run_dir=tmp_path)
    try:
        yield backend
    finally:
        for left in await backend.list_containers():
            await backend.remove(left.container_id, None)
        await backend.close()


def new_id() -> ContainerId:
    return ContainerId(f"invokerd-test-{uuid.uuid4().hex[:12]}")


@pytest.mark.docker
@pytest.mark.parametrize("kind", ["crashing", "broken"])
async def test_an_image_that_ends_at_once_fails_to_start_and_leaves_nothing(real, probe_images, kind):
    spec = ContainerSpec(
        namespace="n", uid=1000, gid=1000, image=probe_images[kind].image_id, kind="k", memory_mib=64, logs=LogTransport.ATTACHED
    )
    try:
        handle = await real.create(new_id(), spec)
    except ContainerStartFailed:
        pass
    else:  # it lived long enough to have a pid: then its death shows as any later one
        async with asyncio.timeout(5):
            while not has_ended(handle.descriptors.pidfd):
                await asyncio.sleep(0.005)
        await real.remove(handle.container_id, handle)
    assert await real.list_containers() == []


@pytest.mark.docker
async def test_a_mount_that_does_not_exist_is_an_error_and_is_not_created(real, probe_images, tmp_path):
    mount = Mount(source=str(tmp_path / "absent"), target="/data")
    spec = ContainerSpec(
        namespace="n", uid=1000, gid=1000, image=probe_images["pipe"].image_id, kind="k", memory_mib=64, mounts=(mount,)
    )
    with pytest.raises(EngineError, match="absent"):
        await real.create(new_id(), spec)
    assert not (tmp_path / "absent").exists()


@pytest.mark.docker
async def test_two_daemons_on_one_engine_see_only_their_own(real, engine_url, probe_images, tmp_path):
    other = await DockerBackend.open(engine_url, node=f"other-{uuid.uuid4().hex[:6]}", boot_id="b", run_dir=tmp_path)
    spec = ContainerSpec(namespace="n", uid=1000, gid=1000, image=probe_images["pipe"].image_id, kind="k", memory_mib=64)
    handle = await real.create(new_id(), spec)
    assert await other.list_containers() == []
    await real.remove(handle.container_id, handle)
    await other.close()


@pytest.mark.docker
async def test_the_death_of_our_container_is_an_event(real, probe_images):
    spec = ContainerSpec(namespace="n", uid=1000, gid=1000, image=probe_images["pipe"].image_id, kind="k", memory_mib=64)
    handle = await real.create(new_id(), spec)
    changed = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(real.watch_events(changed.set))
        os.kill(handle.descriptors.pid, 9)
        await asyncio.wait_for(changed.wait(), 10)
        watching.cancel()


@pytest.mark.docker
@pytest.mark.long
async def test_two_hundred_frozen_containers_are_removed_in_twenty_seconds(real, probe_images):
    spec = ContainerSpec(namespace="n", uid=1000, gid=1000, image=probe_images["pipe"].image_id, kind="k", memory_mib=16)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(real.create(new_id(), spec)) for _ in range(200)]
    handles = [task.result() for task in tasks]
    for handle in handles:
        handle.freeze()
    while not all(handle.is_frozen() for handle in handles):
        await asyncio.sleep(0.01)
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for handle in handles:
            group.create_task(real.remove(handle.container_id, handle))
    took = time.perf_counter() - began
    assert await real.list_containers() == []
    assert took <= 20.0
