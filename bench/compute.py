"""What the platform costs a call that computes: the same work in a bare process, and in an action through the daemon."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import uvloop

from bench import client
from bench.measure import Line, make_line, ratio
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


def compute(setting: Setting) -> Line:
    """Compute for half a second in a bare process, and in an action through the daemon, in turn; the interpreter is the same."""
    blocks: dict[str, list[list[float]]] = {"process": [], "daemon": []}
    with setting.daemon() as daemon, ExitStack() as stack:
        key = daemon.create_namespace()
        daemon.deploy(key, "compute", CODE)
        call = daemon.invocation(key, "compute", query="blocking=true&result=true")
        connections = setting.connect(daemon.port)
        (answer,) = uvloop.run(client.drive(connections, [call])).answers
        engine_id = next(iter(setting.containers_of(daemon)))  # whichever: all have the interpreter
        process = stack.enter_context(_process(setting.engine.inspect(engine_id)["State"]["Pid"]))
        inside, outside = json.loads(answer.body), json.loads(_ask(process)[1])
        if inside != outside:
            raise client.CallFailed(f"in the container {inside}, beside it {outside}")
        for _ in range(setting.blocks):
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
        facts={"python": inside["python"]},
        must=(f"p50 of the call, as its client sees it, <= {MOST} x the same work in a bare process", quotient <= MOST),
    )


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
