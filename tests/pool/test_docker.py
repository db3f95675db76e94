"""`DockerBackend` against engines that misbehave (scripted, on a Unix socket), and against a real one."""

import asyncio
import contextlib
import errno
import inspect
import json
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_engine import opened

from pool import recipe
from pool.backend import Descriptors, FoundContainer
from pool.disk import Room
from pool.docker import DockerBackend, DockerHandle
from pool.errors import ContainerStartFailed, ContainerUnkillable, EngineDiskFull, EngineError, EngineUnavailable, ImageNotFound
from pool.guard import CallClass, Deadlines
from pool.model import ContainerId, ContainerSpec, LogTransport, Mount
from pool.netns import has_ended

A = ContainerId("invokerd-n-aaaaaaaaaaaa")
SPEC = ContainerSpec(namespace="n", uid=os.getuid(), gid=os.getgid(), image="sha256:1", kind="k", memory_mib=64)
FOREIGN = ContainerSpec(namespace="n", uid=1, gid=1, image="sha256:1", kind="k", memory_mib=64, logs=LogTransport.ATTACHED)
QUICK = Deadlines(create_s=0.3, remove_s=0.3, read_s=0.3, pull_s=0.4)


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
    "remove_image": lambda backend: backend.remove_image("sha256:1", "a"),
}
#: What cannot fail: it then does not know.
NEVER_RAISES = {"was_out_of_memory"}
NOT_THE_ENGINE = {"dial", "listen", "close", "open", "weigh_anew", "watch_events"}  # watch_events never ends; tested below


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


@pytest.mark.parametrize(("exit_code", "is_killed"), [(137, True), (1, False)])  # version 1 marks all when the parent is full
async def test_who_was_ended_for_its_memory_is_known_once_the_engine_has_noted_the_end(engine, backend, exit_code, is_killed):
    state = {"OOMKilled": False, "ExitCode": exit_code}

    async def end():
        state["OOMKilled"] = True
        return 200, {"StatusCode": exit_code}

    engine.answers[f"POST /containers/{A}/wait"] = end
    engine.answers[f"GET /containers/{A}/json"] = (200, {"State": state})
    assert await backend.was_out_of_memory(A) is is_killed


async def test_opening_where_nobody_answers_ends_in_the_deadline(tmp_path):
    hole = await black_hole(str(tmp_path / "hole.sock"))
    with pytest.raises(EngineUnavailable, match="version"):
        await opened(f"unix://{tmp_path}/hole.sock", tmp_path, deadlines=QUICK)
    hole.close()


async def test_an_engine_that_is_down_is_unavailable_at_once(tmp_path):
    with pytest.raises(EngineUnavailable):
        await opened(f"unix://{tmp_path}/nobody.sock", tmp_path)


@pytest.mark.parametrize("step", ["POST /containers/create", "POST /containers/eeee"])
@pytest.mark.parametrize("status", [400, 500])
async def test_a_disk_that_fills_while_a_container_is_made_is_what_went_wrong(engine, backend, monkeypatch, step, status):
    async def fill():
        monkeypatch.setattr("pool.disk.room_on", lambda _: Room(0, 1 << 20))
        return status, {"message": "no space left on device"}

    engine.answers[step] = fill
    with pytest.raises(EngineDiskFull, match="0 MiB free") as caught:
        await backend.create(A, SPEC)
    assert "no space left on device" in str(caught.value.__context__)
    assert not caught.value.nothing_made, "it may have made something"
    assert f"DELETE /containers/{A}" in engine.verbs()


async def test_a_sick_engine_is_not_asked_again_until_it_has_cooled(engine, backend):
    backend.guard.deadlines = QUICK
    engine.answers["GET /containers/json"] = None
    for _ in range(3):
        with pytest.raises(EngineUnavailable):
            await backend.list_containers()
    assert backend.guard.sick_classes() == [CallClass.READ]
    asked = len(engine.requests)
    with pytest.raises(EngineUnavailable, match="not asked for a while") as caught:
        await backend.list_containers()
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


@pytest.mark.parametrize("state", [{"Pid": 0, "ExitCode": 3}, {"Pid": 2**22 + 1}], ids=["before it was asked for", "just then"])
async def test_a_container_that_ends_at_once_is_told_of_the_same_whenever_that_is_seen(engine, backend, state):
    engine.answers["GET /containers/eeee"] = (200, {"State": state})
    with pytest.raises(ContainerStartFailed, match="did not initialize and exited unexpectedly: its container ended at once"):
        await backend.create(A, SPEC)


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
        await backend.list_containers()
    assert engine.connections == before + 3


async def test_a_cancelled_create_removes_what_was_made(engine, backend, tmp_path):
    engine.answers["POST /containers/eeee"] = None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await backend.create(A, SPEC)
    assert engine.verbs()[-1] == f"DELETE /containers/{A}"
    assert list((tmp_path / "containers").iterdir()) == []


async def test_on_a_full_disk_the_engine_is_not_asked_for_a_container(engine, backend, monkeypatch):
    def refuse(_path):
        raise EngineDiskFull

    monkeypatch.setattr("pool.docker.refuse_on_full_disk", refuse)
    asked = len(engine.requests)
    with pytest.raises(EngineDiskFull) as caught:
        await backend.create(A, SPEC)
    assert len(engine.requests) == asked
    assert caught.value.nothing_made
    await backend.remove(A, None)  # that goes on


async def test_where_the_log_pipe_cannot_be_made_the_engine_is_not_asked(engine, backend, tmp_path, monkeypatch):
    def refuse(_path, mode):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pool.fifo.os.mkfifo", refuse)
    asked = len(engine.requests)
    with pytest.raises(EngineError, match=r"the log pipe of .* cannot be made: .*No space left") as caught:
        await backend.create(A, SPEC)
    assert len(engine.requests) == asked
    assert caught.value.nothing_made
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
    monkeypatch.setattr("pool.docker.KILLED_WITHIN_S", 30.0)  # a busy machine may take long to see it
    await backend.remove(A, handle)
    assert engine.verbs()[asked:] == [f"DELETE /containers/{A}"]


async def test_what_nobody_has_a_handle_of_is_thawed_before_the_engine_is_told_to_end_it(engine, backend, monkeypatch):
    """Under version 1 a frozen process cannot be killed."""
    engine.answers["GET /containers/invokerd"] = (200, {"State": {"Pid": 4242}})
    seen: list[tuple[int, list[str]]] = []
    monkeypatch.setattr("pool.docker.cgroup.thaw_process", lambda pid: seen.append((pid, engine.verbs())))
    await backend.remove(A, None)
    ((pid, asked),) = seen
    assert pid == 4242
    assert f"DELETE /containers/{A}" not in asked
    assert engine.verbs()[-1] == f"DELETE /containers/{A}"


async def test_a_removal_that_the_engine_refuses_is_told(engine, backend):
    engine.answers["GET /containers/invokerd"] = (200, {"State": {"Pid": 0}})
    engine.answers["DELETE /containers/"] = (409, {"message": "removal is already in progress"})
    with pytest.raises(EngineError, match="in progress"):
        await backend.remove(A, None)
    engine.answers["DELETE /containers/"] = (404, {"message": "no such container"})
    await backend.remove(A, None)


# ---- events


async def test_the_event_stream_is_opened_again_and_says_so(engine, backend):
    event = json.dumps({"Action": "die", "timeNano": 1_700_000_000_123_456_789}).encode() + b"\n"
    engine.answers["GET /events"] = (200, event)
    heard = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(backend.watch_events(heard.release))
        async with asyncio.timeout(30):
            for _ in range(3):  # the event, the reconnect, the event
                await heard.acquire()
        watching.cancel()
    streams = [request for request in engine.requests if request[1] == "/events"]
    assert streams[1][2]["since"] == ["1700000000.123456789"]
    assert json.loads(streams[0][2]["filters"][0])["label"] == ["invokerd.node=n"]


async def test_what_happened_while_the_event_stream_was_cut_is_looked_for_though_nothing_is_told_of_it(engine, backend):
    engine.answers["GET /events"] = (200, b"")
    heard = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(backend.watch_events(heard.release))
        async with asyncio.timeout(30):
            await heard.acquire()
        watching.cancel()
    assert engine.verbs().count("GET /events") == 2, "the first time there is nothing that could have been missed"


async def test_the_event_stream_survives_an_engine_that_goes_away(engine, backend):
    engine.answers["GET /events"] = (500, {"message": "shutting down"})
    changes = []
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(backend.watch_events(lambda: changes.append(1)))
        async with asyncio.timeout(30):
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
        async with asyncio.timeout(30):
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
async def test_an_image_keeps_the_names_that_somebody_else_gave_it(real, probe_images):
    image_id, run = probe_images["pipe"].image_id, uuid.uuid4().hex[:8]
    for name in ("ours", "theirs"):
        named = {"repo": f"invokerd-test/{run}-{name}", "tag": "1"}
        await real._engine.command("tag", CallClass.READ, "POST", f"images/{image_id}/tag", params=named)
    await real.remove_image(image_id, f"invokerd-test/{run}-ours:1")
    with pytest.raises(ImageNotFound):
        await real.resolve_image(f"invokerd-test/{run}-ours:1", pull=False)
    assert (await real.resolve_image(f"invokerd-test/{run}-theirs:1", pull=False)).image_id == image_id
    await real.remove_image(image_id, f"invokerd-test/{run}-theirs:1")
    assert (await real.resolve_image(image_id, pull=False)).image_id == image_id, "it has names of its own"


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
