"""What one user's calls cost while another user's containers die or come up, against the same while all is well."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import uvloop

from bench import client
from bench.container import EngineRefused
from bench.daemon import Daemon
from bench.measure import Blocks, Line, make_line, percentile
from bench.setting import CODE, Setting
from pool.courtesy import find_groups

CONFIG = {"pool.stem_cells.enabled": False}
EXITS = "import os\ndef main(args):\n    os._exit(3)\n"
#: Connections of the user whose containers go wrong, and the pause between two calls on each, s.
CROWD, PAUSE_S = 4, 0.01
#: Between two calls of the other user, s.
LONE_PAUSE_S = 0.005
#: Between two rounds of killing all of them, s.
KILL_EACH_S = 0.25
#: By how much the p99 of others may move when all warm containers of one action are killed.
MOST = 1.2
#: New actions for each block: more than an engine starts meanwhile.
NEW = 40
_BLOCKING = "blocking=true&result=true"


@dataclass
class _Trouble:
    """One user's load in one of the blocks.

    Attributes:
        requests: what is called, as often as it is asked for.
        kills: ends all of its containers; None where nobody does.
        answers: statuses, over all blocks.
    """

    requests: Callable[[], Iterator[bytes]]
    kills: Callable[[], int] | None = None
    answers: Counter[str] = field(default_factory=Counter)
    killed: int = 0


def neighbours(setting: Setting) -> Line:
    """Call one user's warm action while another's is well, is killed again and again, exits, or is new each time.

    The engine gives way to calls, as `invokerd doctor` advises, where it has a CPU cgroup of its own.
    """
    config = {**CONFIG, "engine.cgroups": find_groups(setting.engine.url.removeprefix("unix://"))}
    with setting.daemon(config) as daemon:
        key, other = daemon.create_namespace(), daemon.create_namespace("bench-b", uid=20_002)
        daemon.deploy(other, "lone", CODE)
        daemon.deploy(key, "well", CODE)
        daemon.deploy(key, "victim", CODE)  # its own: what has failed often is refused for a while
        daemon.deploy(key, "exits", EXITS)
        well = daemon.invocation(key, "well", query=_BLOCKING)
        victim = daemon.invocation(key, "victim", query=_BLOCKING)
        exits = daemon.invocation(key, "exits", query=_BLOCKING)
        names = [f"new-{number}" for number in range(NEW * setting.blocks)]
        for name in names:
            daemon.deploy(key, name, CODE)
        # One after the other over all blocks, each for the first and only time.
        fresh = iter([daemon.invocation(key, name, query=_BLOCKING) for name in names])
        troubles = {
            "well": _Trouble(lambda: itertools.repeat(well)),
            "killed": _Trouble(lambda: itertools.repeat(victim), lambda: _kill(setting, daemon)),
            "exits": _Trouble(lambda: itertools.repeat(exits)),
            "new": _Trouble(lambda: fresh),
        }
        lone = daemon.invocation(other, "lone", query=_BLOCKING)
        through, crowd = setting.connect(daemon.port), setting.connect(daemon.port, CROWD)
        uvloop.run(client.drive(through, client.repeated(lone, 20))).latencies_us()
        blocks: dict[str, list[list[float]]] = {name: [] for name in troubles}
        for _ in range(setting.blocks):
            order = list(troubles)
            setting.random.shuffle(order)
            for name in order:
                run = uvloop.run(_beside(crowd, troubles[name], through, client.repeated(lone, setting.calls)))
                blocks[name].append(run.latencies_us())  # raises where one of the other user's calls failed
    p99 = {name: _p99(of_it) for name, of_it in blocks.items()}
    moved = {name: round(value / p99["well"], 3) for name, value in p99.items() if name != "well"}
    return make_line(
        "neighbours",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks=blocks,
        reference="well",
        config=config,
        facts={
            "p99_against_well": moved,
            "answers": {name: dict(trouble.answers) for name, trouble in troubles.items()},
            "containers_killed": troubles["killed"].killed,
        },
        must=(f"p99 while one action's containers are killed <= {MOST} x while they are well", moved["killed"] <= MOST),
    )


def _p99(blocks: Blocks) -> float:
    return percentile(sorted(sample for block in blocks for sample in block), 0.99)


def _kill(setting: Setting, daemon: Daemon) -> int:
    """Kill the main process of each container of the first user; returns how many there were."""
    killed = 0
    for engine_id in setting.containers_of(daemon):
        with contextlib.suppress(EngineRefused, ProcessLookupError):  # gone since they were listed
            if pid := setting.engine.inspect(engine_id)["State"]["Pid"]:
                os.kill(pid, signal.SIGKILL)
                killed += 1
    return killed


async def _beside(
    crowd: Sequence[client.Connected], trouble: _Trouble, through: Sequence[client.Connected], lone: Iterable[bytes]
) -> client.Run:
    """Make the other user's calls beside a trouble, which ends with them."""
    over = asyncio.Event()
    made = trouble.requests()

    def until_over() -> Iterator[bytes]:
        for request in made:
            if over.is_set():
                return
            yield request

    async def keep_killing() -> None:
        assert trouble.kills is not None
        while not over.is_set():
            trouble.killed += await asyncio.to_thread(trouble.kills)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), KILL_EACH_S)

    async with asyncio.TaskGroup() as group:
        load = group.create_task(client.drive(crowd, until_over(), pause_s=PAUSE_S), name="trouble")
        if trouble.kills is not None:
            group.create_task(keep_killing(), name="kill")
        run = await client.drive(through, lone, pause_s=LONE_PAUSE_S)
        over.set()
    trouble.answers.update(str(answer.status) for answer in load.result().answers)
    return run
