"""How long a thaw takes when many containers are woken at the same moment."""

from __future__ import annotations

import json

import msgspec
import uvloop

from bench import client
from bench.measure import Line, make_line
from bench.setting import CODE, Setting

#: What a thaw may take at the 99th percentile, us.
MOST_US = 5_000.0
CONFIG = {"pool.memory_mib": 20_480, "pool.freeze_grace_s": 0.0, "pool.stem_cells.enabled": False}


def thaws(setting: Setting) -> Line:
    """Wake as many frozen containers at once as there are calls, again and again; the thaw as the records tell it."""
    names = [f"thaw-{number}" for number in range(setting.calls)]
    blocks: list[list[float]] = []
    with setting.daemon(CONFIG) as daemon:
        key = daemon.create_namespace()
        connections = setting.connect(daemon.port, len(names))
        calls = [daemon.invocation(key, name) for name in names]
        for name, call in zip(names, calls, strict=True):
            daemon.deploy(key, name, CODE)
            uvloop.run(client.drive(connections[:1], [call]))
        before = daemon.starts()
        for _ in range(setting.blocks):
            daemon.wait(lambda: daemon.metric("invokerd_containers", state="frozen") >= len(names), "to have frozen all")
            run = uvloop.run(client.drive(connections, calls))
            run.latencies_us()  # raises where a call failed
            blocks.append([_thaw_us(answer.body) for answer in run.answers])
        starts = {kind: count - before[kind] for kind, count in daemon.starts().items()}
        repaired = daemon.metric("invokerd_containers_repaired_total")
    line = make_line(
        "thaws",
        seed=setting.seed,
        engine=setting.engine.version,
        blocks={"thaw": blocks},
        reference=None,
        config=CONFIG,
        facts={"starts": starts, "repaired": repaired, "at once": len(names)},
    )
    met = line.subjects["thaw"].p99 <= MOST_US and starts["frozen"] == len(names) * setting.blocks
    return msgspec.structs.replace(line, must={"what": "p99 <= 5 ms, every call from frozen", "met": met})


def _thaw_us(record: bytes) -> float:
    (phases,) = [each["value"] for each in json.loads(record)["annotations"] if each["key"] == "phases"]
    return float(phases["thaw"])
