"""The container engine as a backend: verbs of the pool as requests of Docker's API.

Every request goes through `engine.EngineClient`, and so through the guard: a deadline, a turn, the breaker, a count. The engine
makes and removes containers and tells their main process; all that happens between is done through the kernel, by descriptors.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec

from pool import cgroup, descriptors, fifo, netns, recipe
from pool.backend import ContainerHandle, Descriptors, FoundContainer, Image
from pool.disk import refuse_on_full_disk
from pool.door import API_ADDRESS, BACKLOG
from pool.engine import EngineClient, EngineRefused, Stream, read_json_lines, translated
from pool.errors import (
    ContainerStartFailed,
    ContainerUnkillable,
    EngineError,
    EngineUnavailable,
    ImageNotFound,
    InvokerError,
)
from pool.frames import AttachedParser
from pool.guard import CallClass, CallStatistics, Deadlines, Guard, Widths
from pool.images import EngineImages
from pool.model import ContainerId, ContainerSpec, LogTransport
from pool.sources import Sources
from pool.user_groups import UserGroups
from pool.wall import Wall

log = logging.getLogger(__name__)

#: The newest API whose answers we know; an engine that speaks a newer one is spoken to in this one.
NEWEST_API = (1, 47)
#: 19.03, the first whose `info` tells what it can limit.
OLDEST_API = (1, 40)

#: Kill it if it still runs; remove its anonymous volumes too.
_WITH_FORCE = {"force": "1", "v": "1"}
_RECONNECT_S = (0.2, 5.0)
#: The exit code of what ended by SIGKILL.
_KILLED = 128 + signal.SIGKILL
#: How long a killed process may take to end before the container counts as one that cannot be killed, s.
KILLED_WITHIN_S = 5.0


class _Created(msgspec.Struct):
    engine_id: str = msgspec.field(name="Id")


class _State(msgspec.Struct):
    pid: int = msgspec.field(name="Pid", default=0)
    exit_code: int = msgspec.field(name="ExitCode", default=0)
    oom_killed: bool = msgspec.field(name="OOMKilled", default=False)


class _HostConfig(msgspec.Struct):
    cgroup_parent: str = msgspec.field(name="CgroupParent", default="")


class _Inspected(msgspec.Struct):
    state: _State = msgspec.field(name="State")
    host: _HostConfig = msgspec.field(name="HostConfig", default_factory=_HostConfig)


class _Listed(msgspec.Struct):
    engine_id: str = msgspec.field(name="Id")
    state: str = msgspec.field(name="State")
    names: list[str] | None = msgspec.field(name="Names", default=None)
    labels: dict[str, str] = msgspec.field(name="Labels", default_factory=dict)
    created: float = msgspec.field(name="Created", default=0.0)


class _Version(msgspec.Struct):
    newest: str = msgspec.field(name="ApiVersion")
    oldest: str = msgspec.field(name="MinAPIVersion", default="0.0")
    version: str = msgspec.field(name="Version", default="")


class DockerHandle(cgroup.KernelHandle):
    """A container of this engine; of a foreign image, with its attached stream."""

    def __init__(self, container_id: ContainerId, engine_id: str, opened: Descriptors, stream: Stream | None) -> None:
        super().__init__(container_id, engine_id, opened)
        self.stream = stream

    def close(self) -> None:
        """See `ContainerHandle`."""
        super().close()
        if self.stream is not None:
            self.stream.close()
            self.stream = None


class DockerBackend:
    """A `ContainerBackend` on a Docker engine of this host. Made by `open`.

    Attributes:
        facts: what the engine said of itself.
        images: its images; `images.on_pulled` is told of each that was pulled.
        wall: the memory limit around all containers; None without a cgroup for all of them.
        guard: the bounds around its calls; `guard.sick_classes()` tells what the engine does not answer to.
    """

    def __init__(
        self,
        engine: EngineClient,
        *,
        node: str,
        boot_id: str,
        run_dir: Path,
        facts: recipe.EngineFacts,
    ) -> None:
        self._engine = engine
        self._node = node
        self._boot_id = boot_id
        self._run_dir = run_dir
        #: In which cgroups containers are made; None are the engine's own.
        self._groups: UserGroups | None = None
        self.wall: Wall | None = None
        self._dialer = netns.Dialer()
        self._sources = Sources(own=run_dir.parent)
        self.images = EngineImages(engine, root_dir=lambda: self.facts.root_dir)
        self.guard = engine.guard
        self.facts = facts

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        node: str,
        boot_id: str,
        run_dir: Path,
        deadlines: Deadlines | None = None,
        widths: Widths | None = None,
    ) -> Self:
        """Connect, agree on an API version, and ask the engine what it can do.

        Args:
            url: `unix:///path` or `tcp://127.0.0.1:port`; the engine must run on this host.
            node: name of this node; its containers are labelled with it.
            boot_id: of the running kernel.
            run_dir: where the containers' log pipes are.
            deadlines: of the classes of calls.
            widths: of the classes of calls.

        Raises:
            EngineUnavailable: it does not answer.
            EngineError: it is too old.
        """
        placeholder = recipe.EngineFacts.of({}, version="", api_version="")
        guard = Guard(deadlines=deadlines or Deadlines(), widths=widths or Widths(create=2 * (os.cpu_count() or 1)))
        self = cls(
            EngineClient(url, guard),
            node=node,
            boot_id=boot_id,
            run_dir=run_dir,
            facts=placeholder,
        )
        opened = False
        try:
            self.facts = await self._negotiate()
            opened = True
            return self
        finally:
            if not opened:
                await self.close()

    def use_groups(self, groups: UserGroups) -> None:
        """Create containers in these cgroups from now on."""
        self._groups = groups

    async def weigh_anew(self) -> None:
        """The weights of users may have changed: give their cgroups those that they have now."""
        if self._groups is not None:
            await self._groups.weigh_anew()

    @property
    def calls(self) -> Mapping[str, CallStatistics]:
        """Count, errors, timeouts and seconds of each verb of the engine, for the metrics."""
        return self.guard.calls

    async def create(self, container_id: ContainerId, spec: ContainerSpec) -> ContainerHandle:
        """See `ContainerBackend`."""
        try:
            refuse_on_full_disk(self.facts.root_dir)
            shared = await self._sources.wait_shared(spec.mounts)
            directory = self._create_fifo(container_id, spec) if spec.logs is LogTransport.PIPE else None
        except InvokerError as error:
            error.nothing_made = True
            raise
        stream: Stream | None = None
        kept, hung = False, False
        try:
            request = recipe.create_request(
                spec,
                self.facts,
                node=self._node,
                boot_id=self._boot_id,
                log_directory=directory,
                shared_mounts=shared,
                cgroup_parent=None if self._groups is None else self._groups.of(spec),
            )
            engine_id = await self._post_create(container_id, request)
            if spec.logs is LogTransport.ATTACHED:
                stream = await self._attach(engine_id)  # before the start, so that no line is lost
            await self._post_start(engine_id)
            if self._groups is not None:
                await self._groups.weigh(spec)
            state = (await self._inspect(engine_id)).state
            handle = await self._open_handle(container_id, engine_id, state, spec.logs, stream)
            kept = True
        except EngineUnavailable:
            hung = True  # nor would it answer now: the caller need not wait for that too
            raise
        except (EngineRefused, ContainerStartFailed):
            refuse_on_full_disk(self.facts.root_dir)  # it may have filled meanwhile: then that is what is wrong
            raise
        finally:
            if not kept:
                if stream is not None:
                    stream.close()
                if not hung:
                    await self._discard(container_id)
        return handle

    async def adopt(self, found: FoundContainer) -> ContainerHandle:
        """See `ContainerBackend`."""
        spec = recipe.spec_of(found)
        inspected = await self._inspect(found.engine_id)
        if self._groups is not None and inspected.host.cgroup_parent != (parent := self._groups.of(spec)):
            raise EngineError(f"it is not in the cgroup {parent}, as its user's containers are by now")
        handle = await self._open_handle(found.container_id, found.engine_id, inspected.state, spec.logs, None)
        if self._groups is not None:
            await self._groups.weigh(spec)  # it may have another weight than under the earlier daemon
        opened = handle.descriptors
        if spec.logs is LogTransport.PIPE and not fifo.is_seen_by(opened.pid, recipe.LOG_PIPE, opened.log):
            handle.close()
            raise EngineError("its log pipe is another one by now: state_dir was put back from a copy")
        return handle

    async def remove(self, container_id: ContainerId, handle: ContainerHandle | None) -> None:
        """See `ContainerBackend`."""
        if handle is None:
            await self._thaw_unknown(container_id)
        else:
            assert isinstance(handle, DockerHandle)
            handle.kill()
            await self._wait_dead(container_id, handle)
        await self._delete(container_id)
        fifo.remove_fifo(self._run_dir, container_id)
        if handle is not None:
            handle.close()

    async def dial(self, handle: ContainerHandle) -> socket.socket:
        """See `ContainerBackend`."""
        return await self._dialer.dial(handle.descriptors.pidfd)

    async def listen(self, handle: ContainerHandle) -> socket.socket:
        """See `ContainerBackend`."""
        return await self._dialer.listen(handle.descriptors.pidfd, API_ADDRESS, backlog=BACKLOG)

    async def list_containers(self) -> list[FoundContainer]:
        """See `ContainerBackend`."""
        filters = json.dumps({"label": [f"{recipe.LABEL_NODE}={self._node}"]})
        params = {"all": "1", "filters": filters}
        listed = await self._engine.request("list", CallClass.READ, "GET", "containers/json", list[_Listed], params=params)
        return [
            FoundContainer(
                container_id=ContainerId(entry.names[0].removeprefix("/")),
                engine_id=entry.engine_id,
                running=entry.state in {"running", "paused"},  # paused by hand: the pool thaws it when it is wanted
                labels=entry.labels,
                created=entry.created,
            )
            for entry in listed
            if entry.names  # none while it is being removed
        ]

    async def resolve_image(
        self, reference: str, *, pull: bool, credentials: Mapping[str, str] | None = None, user: str = ""
    ) -> Image:
        """See `ContainerBackend`."""
        return await self.images.resolve(reference, pull=pull, credentials=credentials, user=user)

    async def remove_image(self, image_id: str, reference: str) -> None:
        """See `ContainerBackend`."""
        await self.images.remove(image_id, reference)

    async def attach_logs(self, handle: ContainerHandle) -> AsyncIterator[tuple[str, bytes]]:
        """See `ContainerBackend`. Read it at once: an unread stream blocks the container's writes in the end."""
        assert isinstance(handle, DockerHandle)
        if handle.stream is None:
            handle.stream = await self._attach(handle.engine_id)
        stream, parser = handle.stream, AttachedParser()
        with translated("attach"):
            while data := await stream.content.readany():
                for piece in parser.feed(data):
                    yield piece
        if handle.stream is stream and not netns.has_ended(handle.descriptors.pidfd):
            raise EngineError(f"the attached stream of {handle.container_id} ended before the container")

    async def watch_events(self, on_change: Callable[[], None]) -> None:
        """Call `on_change` whenever containers should be listed anew. Never returns; reconnects as often as it must.

        A hint, not a truth: deaths are seen through pidfds. It is called when one of our containers dies or is
        destroyed, and each time the stream had to be opened again (the engine may have restarted).
        """
        events = {"type": ["container"], "event": ["die", "destroy"], "label": [f"{recipe.LABEL_NODE}={self._node}"]}
        params = {"filters": json.dumps(events), "since": str(int(time.time()))}
        pause, longest = _RECONNECT_S
        was_open = False
        while True:
            try:
                response = await self._engine.open_stream("events", "GET", "events", params)
                pause = _RECONNECT_S[0]
                async with contextlib.aclosing(read_json_lines(response, "events")) as lines:
                    if was_open:
                        on_change()
                    was_open = True
                    async for event in lines:
                        params["since"] = _stamp(event)
                        on_change()
            except EngineError as error:
                log.info("the event stream broke: %s", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def was_out_of_memory(self, container_id: ContainerId) -> bool:
        """See `ContainerBackend`. The engine notes it with the container's end, of which we may know first: it is waited for."""
        try:
            await self._engine.command("wait", CallClass.READ, "POST", f"containers/{container_id}/wait")
            state = (await self._inspect(container_id)).state
        except InvokerError as error:
            log.info("%s: whether it was ended for its memory is not known: %s", container_id, error)
            return False
        # Under version 1 all containers are marked when all together had too much; the one that was ended was killed.
        return state.oom_killed and state.exit_code == _KILLED

    async def close(self) -> None:
        """See `ContainerBackend`."""
        self._dialer.close()
        self._sources.close()
        await self._engine.close()

    # ---- steps of the verbs

    async def _negotiate(self) -> recipe.EngineFacts:
        version = await self._engine.request("version", CallClass.READ, "GET", "version", _Version, versioned=False)
        newest, oldest = _api(version.newest), _api(version.oldest)
        if newest < OLDEST_API:
            raise EngineError(f"the engine speaks API {version.newest}, invokerd needs 1.40 (Docker 19.03) or later")
        chosen = "v{}.{}".format(*max(min(newest, NEWEST_API), oldest))
        self._engine.speak(chosen)
        info = await self._engine.request("info", CallClass.READ, "GET", "info", dict[str, Any])
        return recipe.EngineFacts.of(info, version=version.version, api_version=chosen)

    def _create_fifo(self, container_id: ContainerId, spec: ContainerSpec) -> Path:
        try:
            return fifo.create_fifo(self._run_dir, container_id, spec.uid, spec.gid)
        except OSError as error:
            with contextlib.suppress(OSError):  # a part of it may be there; the first error tells more
                fifo.remove_fifo(self._run_dir, container_id)
            raise EngineError(f"the log pipe of {container_id} cannot be made: {error}") from error

    async def _post_create(self, container_id: ContainerId, request: dict[str, Any]) -> str:
        try:
            made = await self._engine.request(
                "create", CallClass.CREATE, "POST", "containers/create", _Created, params={"name": container_id}, body=request
            )
        except EngineRefused as error:
            if error.status == 404:
                raise ImageNotFound(f"image {request['Image']} is gone from this node") from error
            if error.status != 409:
                raise
            # Names are never used twice: an earlier attempt has made it, and its answer was lost.
            made = await self._engine.request("inspect", CallClass.READ, "GET", f"containers/{container_id}/json", _Created)
        return made.engine_id

    async def _post_start(self, engine_id: str) -> None:
        try:
            await self._engine.command("start", CallClass.CREATE, "POST", f"containers/{engine_id}/start")
        except EngineRefused as error:
            if 400 <= error.status < 500:  # the image's entry point cannot be executed
                raise ContainerStartFailed(str(error)) from error
            raise

    async def _open_handle(
        self, container_id: ContainerId, engine_id: str, state: _State, logs: LogTransport, stream: Stream | None
    ) -> DockerHandle:
        """Find the main process and open all descriptors, under its pidfd."""
        if not state.pid:
            raise ContainerStartFailed(
                "The action did not initialize and exited unexpectedly: "
                f"its container ended at once with exit code {state.exit_code}."
            )
        try:
            log_dir = self._run_dir if logs is LogTransport.PIPE else None
            opened = descriptors.open_descriptors(state.pid, engine_id, container_id, log_dir)
        except ProcessLookupError as error:
            sentence = "The action did not initialize and exited unexpectedly: its container ended at once."
            raise ContainerStartFailed(sentence) from error
        except OSError as error:
            raise EngineError(f"the kernel's files of {container_id} cannot be opened: {error}") from error
        if self.wall is not None:
            self.wall.saw(opened.oom_file)
        return DockerHandle(container_id, engine_id, opened, stream)

    async def _inspect(self, name: str) -> _Inspected:
        try:
            return await self._engine.request("inspect", CallClass.READ, "GET", f"containers/{name}/json", _Inspected)
        except EngineRefused as error:
            if error.status == 404:
                raise ContainerStartFailed(f"{name} is gone") from error
            raise

    async def _thaw_unknown(self, container_id: ContainerId) -> None:
        """Thaw a container that we have no handle of: under v1 the engine could not kill it."""
        with contextlib.suppress(ContainerStartFailed):
            state = (await self._inspect(container_id)).state
            if state.pid:
                with contextlib.suppress(OSError):
                    cgroup.thaw_process(state.pid)

    async def _wait_dead(self, container_id: ContainerId, handle: DockerHandle) -> None:
        """Wait until the kernel has ended it. The engine is not asked before: one such process can hang all of it.

        Raises:
            ContainerUnkillable: it does not end.
        """
        pidfd = handle.descriptors.pidfd
        loop, died = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(pidfd, died.set)
        try:
            async with asyncio.timeout(KILLED_WITHIN_S):
                await died.wait()
        except TimeoutError:
            state = _state_of(handle.descriptors.pid)
            text = f"{container_id} was killed and did not end within {KILLED_WITHIN_S:g} s; its process is in state {state}"
            raise ContainerUnkillable(text) from None
        finally:
            loop.remove_reader(pidfd)

    async def _delete(self, container_id: ContainerId) -> None:
        try:
            await self._engine.command("remove", CallClass.REMOVE, "DELETE", f"containers/{container_id}", params=_WITH_FORCE)
        except EngineRefused as error:
            if error.status != 404:
                raise

    async def _discard(self, container_id: ContainerId) -> None:
        """Remove what a failed create has made. What the engine refuses to remove now, the caller removes."""
        try:
            await self._delete(container_id)
        except EngineError as error:
            log.warning("%s stays behind for now: %s", container_id, error)
        fifo.remove_fifo(self._run_dir, container_id)

    async def _attach(self, engine_id: str) -> Stream:
        params = {"stream": "1", "stdout": "1", "stderr": "1"}
        return await self._engine.open_stream("attach", "POST", f"containers/{engine_id}/attach", params)


def _state_of(pid: int) -> str:
    """Say in which state the kernel has a process; D is a wait that nothing interrupts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return "unknown"


def _api(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major), int(minor)


def _stamp(event: Mapping[str, Any]) -> str:
    """An event's time as the `since` parameter wants it."""
    seconds, nanos = divmod(int(event.get("timeNano", 0)), 1_000_000_000)
    return f"{seconds}.{nanos:09d}"
