"""Calls that compute: what the platform costs them, and what other users' computing does."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import uvloop

from bench import client
from bench.measure import Distribution, Line, make_line, ratio
from bench.setting import Setting

#: About half a second of one core, in the interpreter's own loop: no library, no memory, no system call.
CODE = """import platform
def main(args):
    total = 0
    for number in range(6_000_000):
        total += number * number % 7
    return {"total": total, "python": platform.python_version()}
"""
#: A kept process that does the work for each line that it reads.
_LOOP = "import json, sys\nfor _ in sys.stdin:\n    print(json.dumps(main({})), flush=True)\n"
#: What the platform may add, container, counters and limits included.
MOST = 1.02
#: Uses so much of the CPU's time, however long that takes.
WORK = """import time
def main(args):
    until = time.thread_time() + args["seconds"]
    while time.thread_time() < until:
        pass
    return {}
"""
#: What a lone call computes, and what each of the crowd's does, s.
LONE_S, CROWD_S = 0.05, 2.0
#: The crowd: so many calls at a time for each processor.
CROWD = 4


def compute(setting: Setting) -> Line:
    """Compute for half a second in a bare process, and in an action through the daemon, in turn; the interpreter is the same."""
    blocks: dict[str, list[list[float]]] = {"process": [], "daemon": []}
    config = {"pool.stem_cells.enabled": False}  # each first call would have another one made, beside what is measured
    with setting.daemon(config) as daemon:
        key = daemon.create_namespace()
        connections = setting.connect(daemon.port)
        for number in range(setting.blocks):
            # Both anew in each block: how fast the same code runs differs from process to process by more than is looked for.
            name = f"compute-{number}"
            daemon.deploy(key, name, CODE)
            call = daemon.invocation(key, name, query="blocking=true&result=true")
            (answer,) = uvloop.run(client.drive(connections, [call])).answers
            engine_id = next(iter(setting.containers_of(daemon)))  # whichever: all have the interpreter
            with _process(setting.engine.inspect(engine_id)["State"]["Pid"]) as process:
                inside, outside = json.loads(answer.body), json.loads(_ask(process)[1])
                if inside != outside:
                    raise client.CallFailed(f"in the container {inside}, beside it {outside}")
                for subject in setting.random.sample(sorted(blocks), 2):
                    if subject == "process":
                        blocks[subject].append([_ask(process)[0] for _ in range(setting.calls)])
                    else:
                        run = uvloop.run(client.drive(connections, client.repeated(call, setting.calls)))
                        blocks[subject].append(run.latencies_us())
    quotient = ratio(blocks["daemon"], blocks["process"]).median
    return make_line(
        "compute",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks=blocks,
        reference="process",
        config=config,
        facts={"python": inside["python"]},
        must=(f"p50 of the call, as its client sees it, <= {MOST} x the same work in a bare process", quotient <= MOST),
    )


def crowded(setting: Setting) -> Line:
    """Call one user's action that computes for 50 ms, quiet and while another user has four calls a core that compute."""
    cores = os.cpu_count() or 1
    config = {"pool.max_containers_per_action": CROWD * cores, "pool.stem_cells.enabled": False}
    with setting.daemon(config) as daemon:
        first, second = daemon.create_namespace(), daemon.create_namespace("bench-b", uid=20_002)
        daemon.deploy(first, "work", WORK)
        daemon.deploy(second, "work", WORK)
        through, crowd = setting.connect(daemon.port), setting.connect(daemon.port, CROWD * cores)
        lone = daemon.invocation(second, "work", {"seconds": LONE_S}, query="blocking=true&result=true")
        computing = daemon.invocation(first, "work", {"seconds": CROWD_S}, query="blocking=true&result=true")
        uvloop.run(client.drive(through, client.repeated(lone, 5))).latencies_us()
        quiet = uvloop.run(client.drive(through, client.repeated(lone, setting.calls), pause_s=LONE_S)).latencies_us()
        uvloop.run(client.drive(crowd, client.repeated(computing, len(crowd)))).latencies_us()  # until it has its containers
        beside = uvloop.run(_beside(crowd, computing, through, client.repeated(lone, setting.calls))).latencies_us()
    before, after = Distribution.of(quiet), Distribution.of(beside)
    p99_ratio = after.p99 / before.p99
    return make_line(
        "crowded",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks={"quiet": [quiet], "crowded": [beside]},
        reference="quiet",
        config=config,
        facts={"crowd": len(crowd), "cores": cores, "p99_ratio": round(p99_ratio, 2)},
        must=("p50 of the other user's lone calls <= 2 x its quiet value", after.p50 <= 2 * before.p50),
        goals=(("p99 <= 2 x its quiet value", p99_ratio, p99_ratio <= 2),),
    )


async def _beside(
    crowd: Sequence[client.Connected], computing: bytes, through: Sequence[client.Connected], lone: Iterable[bytes]
) -> client.Run:
    """Call alone while the crowd goes on calling; it ends with the lone calls."""
    over = asyncio.Event()

    def until_over() -> Iterator[bytes]:
        while not over.is_set():
            yield computing

    async with asyncio.TaskGroup() as group:
        group.create_task(client.drive(crowd, until_over()), name="crowd")
        run = await client.drive(through, lone, pause_s=LONE_S)
        over.set()
    return run


@contextmanager
def _process(pid: int) -> Iterator[subprocess.Popen[str]]:
    """Run the interpreter of a container, named by its main process, outside of it: no namespace, no limit, no other user."""
    command = ["chroot", f"/proc/{pid}/root", "python3", "-c", CODE + _LOOP]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _ask(process: subprocess.Popen[str]) -> tuple[float, str]:
    """Have the process do the work once; return how long that took, us, and what it says."""
    assert process.stdin is not None
    assert process.stdout is not None
    began_ns = time.perf_counter_ns()
    process.stdin.write("\n")
    process.stdin.flush()
    said = process.stdout.readline()
    return (time.perf_counter_ns() - began_ns) / 1000, said
