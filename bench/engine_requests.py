"""How often the daemon asks the engine while it serves calls: never."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import uvloop

from bench import client
from bench.measure import Line, make_line
from bench.proxy import CountingProxy
from bench.setting import CODE, WARM_UP, Setting

CALLS = 10_000
_ACTION = "echo"
#: No request for so long: what the first calls set off is over.
_QUIET_S = 1.0


def engine_requests(setting: Setting) -> Line:
    """Count requests to the engine during 10,000 warm and 10,000 frozen calls, less those of as long an idle time."""
    blocks: dict[str, list[list[float]]] = {}
    facts: dict[str, Any] = {}
    for kind, config in (("warm", {}), ("frozen", {"pool.freeze_grace_s": 0.0})):
        socket = setting.root / f"{kind}.sock"
        with (
            CountingProxy(socket, setting.engine.url.removeprefix("unix://")) as proxy,
            setting.daemon(config, proxy.url) as daemon,
        ):
            key = daemon.create_namespace()
            daemon.deploy(key, _ACTION, CODE)
            call = daemon.invocation(key, _ACTION, query="blocking=true&result=true")
            through = setting.connect(daemon.port)
            uvloop.run(client.drive(through, client.repeated(call, WARM_UP))).latencies_us()
            _wait_until_quiet(proxy)
            uvloop.run(client.drive(through, client.repeated(call, WARM_UP))).latencies_us()
            starts = daemon.starts()
            before = Counter(proxy.requests)
            run = uvloop.run(client.drive(through, client.repeated(call, CALLS)))
            during = proxy.requests - before
            found = {name: count - starts[name] for name, count in daemon.starts().items()}
            before = Counter(proxy.requests)
            time.sleep(run.seconds)
            idle = proxy.requests - before
        blocks[kind] = [run.latencies_us()]
        facts[kind] = {"requests": dict(during), "requests_idle": dict(idle), "seconds": round(run.seconds, 3), "starts": found}
        facts[kind]["surplus"] = during.total() - idle.total()
    surplus = sum(facts[kind]["surplus"] for kind in blocks)
    right = all(facts[kind]["starts"][kind] >= 0.95 * CALLS for kind in blocks)
    return make_line(
        "engine-requests",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks=blocks,
        reference=None,
        config={"frozen": {"pool.freeze_grace_s": 0.0}},
        facts=facts,
        must=("requests during calls, less those of as long an idle time: 0", surplus <= 0 and right),
    )


def _wait_until_quiet(proxy: CountingProxy) -> None:
    """Wait until the daemon has asked nothing for a while: stem cells are up, removals done."""
    before = -1
    while proxy.total != before:
        before = proxy.total
        time.sleep(_QUIET_S)
