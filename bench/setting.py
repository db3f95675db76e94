"""What every scenario works with: the engine, a directory, a seed, containers by hand, a daemon, and blocks in turn."""

from __future__ import annotations

import random
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from bench import client
from bench.container import ByHand, Engine, EngineRefused, make_log_directory, open_freezer, post, thaw
from bench.cpu import cpu_us
from bench.daemon import DEADLINE_S, GID, LOOK_S, NAMESPACE, UID, Daemon
from pool.model import ContainerSpec
from pool.recipe import LABEL_NODE, LABEL_SPEC, EngineFacts, create_request
from pool.user_groups import UserGroups, default_parent, parent_path

#: The image of the kind that all scenarios use.
IMAGE = "invokerd/python3:latest"
KIND = "python:3"
#: What is called: as little as a function can do.
CODE = 'def main(args):\n    return {"ok": True}\n'
#: Calls before those that count, at the start of each block: caches, and what the last subject left behind.
WARM_UP = 5


@dataclass
class Setting:
    """Where and how a scenario runs.

    Attributes:
        engine: the container engine.
        root: an empty directory.
        seed: of everything random.
        calls: that count, of one subject in one block.
        blocks: how often the subjects take turns.
        rounds: repetitions of what is not a block: pairs of starts, crashes, restarts, relays.
    """

    engine: Engine
    root: Path
    seed: int
    calls: int
    blocks: int
    rounds: int
    random: random.Random = field(init=False)
    _connections: list[socket.socket] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        #: Label of the containers by hand: no daemon's, nor another bench's.
        self.node = f"bench-by-hand-{secrets.token_hex(4)}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()
        remove_cgroups(self.node)

    def connect(self, port: int, count: int = 1) -> list[socket.socket]:
        """Open connections to a port of this host, which stay open until the scenario is over."""
        opened = client.connect(port, count)
        self._connections += opened
        return opened

    @contextmanager
    def daemon(
        self,
        config: Mapping[str, Any] | None = None,
        engine_url: str | None = None,
        prepare: Callable[[Path], None] | None = None,
    ) -> Iterator[Daemon]:
        """Run a daemon; afterwards it and all of its containers are gone.

        Args:
            config: keys that are not at their default.
            engine_url: another engine than the setting's.
            prepare: called with its state directory before it starts.
        """
        root = self.root / secrets.token_hex(4)
        root.mkdir()
        daemon = Daemon(root, engine_url or self.engine.url, config)
        try:
            if prepare is not None:
                prepare(daemon.state_dir)
            daemon.start()
            yield daemon
        except Exception as error:
            error.add_note(daemon.end_of_log())
            raise
        finally:
            try:
                daemon.stop()
            finally:
                remove_containers(self.engine, daemon.node)

    @contextmanager
    def by_hand(self, count: int, spec: ContainerSpec | None = None) -> Iterator[list[Runner]]:
        """Run containers by hand, initialised with the same code as the daemon's."""
        runners: list[Runner] = []
        try:
            for _ in range(count):
                runners.append(self.start_by_hand(spec or self.default_spec()))
                post(runners[-1].connection, "/init", init_value())
            yield runners
        finally:
            for runner in runners:
                runner.close()

    def start_by_hand(self, spec: ContainerSpec) -> Runner:
        """Start a container with the create request that the daemon would send, and connect to it."""
        name = f"invokerd-bench-{secrets.token_hex(6)}"
        logs = make_log_directory(self.root, name, spec.uid, spec.gid)
        facts = self._facts()
        parent = parent_path(default_parent(self.node), facts.cgroup_driver)
        group = UserGroups(parent, lambda _: 1.0).of(spec) if parent else None
        body = create_request(spec, facts, node=self.node, boot_id="none", log_directory=logs, cgroup_parent=group)
        container = ByHand(self.engine, name, body)
        try:
            return Runner(container, container.connect())
        except BaseException:
            container.remove()
            raise

    def default_spec(self) -> ContainerSpec:
        """Make the spec of a container where no daemon is there to be copied."""
        image = self.engine.request("GET", f"/images/{IMAGE}/json")["Id"]
        return ContainerSpec(namespace=NAMESPACE, uid=UID, gid=GID, image=image, kind=KIND, memory_mib=256, cpu_millis=1000)

    def containers_of(self, daemon: Daemon) -> dict[str, ContainerSpec]:
        """List the containers that the daemon has for the benches' namespace: engine's id and spec."""
        listed = self.engine.containers(f"{LABEL_NODE}={daemon.node}")
        specs = {each["Id"]: msgspec.json.decode(each["Labels"][LABEL_SPEC], type=ContainerSpec) for each in listed}
        # The daemon has one more, to test itself.
        return {engine_id: spec for engine_id, spec in specs.items() if spec.namespace == NAMESPACE}

    def spec_of(self, daemon: Daemon) -> ContainerSpec:
        """Read the spec of a container that the daemon runs, so that those by hand are the same."""
        return next(iter(self.containers_of(daemon).values()))

    def _facts(self) -> EngineFacts:
        if not hasattr(self, "_known_facts"):
            info = self.engine.request("GET", "/info")
            self._known_facts = EngineFacts.of(info, version=self.engine.version, api_version="")
        return self._known_facts


class Runner:
    """A container by hand with its kept connection, and its freezer once that is asked for."""

    def __init__(self, container: ByHand, connection: Any) -> None:
        self.container = container
        self.connection = client.prepare(connection)
        self.freezer = -1
        self.cgroup = "v1"

    def open_freezer(self) -> int:
        """Open the file that freezes it, closed by `close`."""
        self.freezer, self.cgroup = open_freezer(self.container.pid)
        return self.freezer

    def close(self) -> None:
        """Let it run again, and remove it."""
        if self.freezer >= 0:
            thaw(self.freezer, self.cgroup)
        self.connection.close()
        self.container.remove()


class Subject(NamedTuple):
    """One of those that are measured in turn: where to send what, and whose CPU time to read."""

    connections: list[Any]
    request: bytes
    pid: int = 0


RUN = client.request("POST", "/run", {"value": {}})


def init_value() -> dict[str, Any]:
    """Make the body of /init for a container by hand."""
    return {"value": {"name": "bench", "main": "main", "code": CODE, "binary": False, "env": {}}}


async def in_turn(
    setting: Setting, subjects: Mapping[str, Subject], *, calls: int | None = None, pause_s: float = 0.0
) -> dict[str, list[client.Run]]:
    """Measure subjects in blocks, in another order in each block, all within the same minutes.

    Raises:
        CallFailed: a call did not succeed.
    """
    runs: dict[str, list[client.Run]] = {name: [] for name in subjects}
    for _ in range(setting.blocks):
        order = list(subjects)
        setting.random.shuffle(order)
        for name in order:
            connections, request, pid = subjects[name]
            try:
                warm_up = client.repeated(request, WARM_UP * len(connections))
                (await client.drive(connections, warm_up, pause_s=pause_s)).latencies_us()
                counted = client.repeated(request, calls or setting.calls)
                before = cpu_us(pid) if pid else 0.0
                run = await client.drive(connections, counted, pause_s=pause_s)
                runs[name].append(run._replace(cpu_us=cpu_us(pid) - before if pid else 0.0))
                run.latencies_us()
            except client.CallFailed as error:
                error.add_note(f"while {name} was measured")
                raise
    return runs


def latencies(runs: Mapping[str, list[client.Run]]) -> dict[str, list[list[float]]]:
    """Give the latencies of each subject by block, us."""
    return {name: [run.latencies_us() for run in of_it] for name, of_it in runs.items()}


def cpu_us_a_call(runs: Mapping[str, list[client.Run]]) -> dict[str, float]:
    """Give the CPU time of a call, where it was read, us: of the process that was measured, not of container and client."""
    return {
        name: round(sum(run.cpu_us for run in of_it) / sum(len(run.answers) for run in of_it), 1)
        for name, of_it in runs.items()
        if any(run.cpu_us for run in of_it)
    }


def remove_containers(engine: Engine, node: str) -> None:
    """Remove every container of a node, thawed first (under v1 a frozen one cannot be killed), and their cgroups."""
    deadline = time.monotonic() + DEADLINE_S
    while listed := engine.containers(f"{LABEL_NODE}={node}"):
        for each in listed:
            try:
                pid = engine.inspect(each["Id"])["State"]["Pid"]
                if pid:
                    thaw(*open_freezer(pid))
                engine.request("DELETE", f"/containers/{each['Id']}?force=1")
            except (EngineRefused, OSError):
                # The daemon asked for its removal just before it ended: it goes by itself, or is still there next time.
                if time.monotonic() > deadline:
                    raise
                time.sleep(LOOK_S)
    remove_cgroups(node)


def remove_cgroups(node: str) -> None:
    """Remove what cgroups a node's containers have left, where they are not systemd's."""
    UserGroups(f"/{default_parent(node)}", lambda _: 1.0).remove_empty(parent=True)
