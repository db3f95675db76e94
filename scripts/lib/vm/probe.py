"""What scripts/vm-test tries inside its machine, in order.

Prints one line a check, `CHECK name ok|FAILED what was seen`, and the line `PROBE ENDED` when nothing was left out.
With names of parts as arguments, only those: `probe.py calls hands`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from budget import try_reclaim, try_slice
from engine_group import try_engine_group
from hands import try_hands
from machine import api, cgroup_of, check, engine, frozen, operate, ours, pool, read, run, section, tell, wait, wait_state
from nfs import try_nfs
from unit import show, try_reload, try_restarts, try_unwritable, try_watchdog, try_writer

ECHO = "def main(args):\n    return args\n"
SPIN = """
import resource
def main(args):
    used = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    before = used()
    while used() - before < args["s"]:
        pass
    return {"used": used() - before}
"""
WHO = """
import os
def main(args):
    status = open("/proc/self/status").read()
    return {"uid": os.getuid(), "gid": os.getgid(), "caps": status.split("CapEff:")[1].split()[0]}
"""
EAT = "def main(args):\n    keep = []\n    while True:\n        keep.append(bytearray(1 << 22))\n"
SLEEP = "import time\ndef main(args):\n    time.sleep(args.get('s', 3600))\n    return {'slept': args.get('s')}\n"
LIMITS = ("memory.max", "memory.swap.max", "pids.max", "cpu.max", "cpu.weight")


def try_service() -> None:
    """The engine; then the unit, which the first connection to its socket starts."""
    with section("engine"):
        wait("docker", lambda: "Server Version" in run("docker", "info"))
        told = "{{.CgroupVersion}} {{.CgroupDriver}} {{.ServerVersion}} {{.LiveRestoreEnabled}}"
        info = run("docker", "info", "--format", told)
        check("engine", info.startswith("2 systemd"), f"cgroup, driver, version, restore: {info}; Linux {run('uname', '-r')}")
        said = run("docker", "load", "-i", "/opt/vm/python3.tar")
        check("image", "Loaded image" in said, said)
    with section("service"):
        said = run("systemctl", "start", "invokerd.socket")
        check(
            "not-started",
            run("systemctl", "is-active", "invokerd") == "inactive",
            said or "the socket listens, nothing else runs",
        )
        began = time.monotonic()
        status, answer = api.ask("GET", "/ping")
        seen = f"the first request was answered {status} {answer} after {time.monotonic() - began:.0f} s"
        check("socket-activation", status == 200, seen)
        wait("READY", lambda: run("systemctl", "is-active", "invokerd") == "active")
        unit = show("Type", "ActiveState", "StatusText", "NRestarts")
        check("notify", unit["Type"] == "notify" and "serving" in unit["StatusText"], unit)
        if "key" not in api.__dict__:
            wanted = {"name": "anna", "uid": 20001, "gid": 20001, "groups": [], "mounts": []}
            api.key = operate("POST", "/v1/namespaces", wanted)["key"]
            Path("/root/anna.key").write_text(api.key)


def try_self_test() -> None:
    """The daemon's own test of the freezer, and `invokerd doctor`."""
    found = wait(
        "the self-test", lambda: (each := api.check_of("freezing"))["detail"] != "not tested yet" and each, patience_s=300
    )
    check("self-test", found["ok"], found["detail"])
    said = run("invokerd", "doctor", "--config", "/etc/invokerd/invokerd.toml")
    for line in said.splitlines():
        print(f"  | {line}", flush=True)
    freezer = [line for line in said.splitlines() if "freez" in line]
    check("doctor", bool(freezer) and "Traceback" not in said, " / ".join(freezer))


def try_calls() -> None:
    """Cold, frozen, and after `systemctl daemon-reload`."""
    api.deploy("echo", ECHO)
    status, result, notes = api.invoke("echo", {"n": 1})
    seen = (status, result, notes["startKind"])
    check("cold-call", seen == (200, {"n": 1}, "cold"), (*seen, notes["phases"]))
    container = notes["container"]
    wait_state(container, "frozen")
    group = cgroup_of(container)
    check("frozen-by-v2", frozen(group) and group.name.endswith(".scope"), group)
    said = engine("GET", f"/containers/{container}/json")["State"]["Status"]
    check("engine-unaware", said == "running", f"docker says {said}")
    status, result, notes = api.invoke("echo", {"n": 2})
    seen = (status, notes["startKind"], notes["container"])
    check("frozen-call", seen == (200, "frozen", container), (*seen, notes["phases"]))
    wait_state(container, "frozen")
    limits = read(group, *LIMITS)
    swap = limits.get("memory.swap.max", "0")
    bounded = limits["memory.max"] == str(256 << 20) and limits["pids.max"] != "max" and swap != "max" and int(swap) <= 4096
    check("limits", bounded, limits)
    run("systemctl", "daemon-reload")
    still, after = frozen(group), read(group, *LIMITS)
    check("daemon-reload", after == limits, f"frozen after it: {still}; limits after it: {after}")
    status, result, notes = api.invoke("echo", {"n": 3})
    seen = (status, result, notes["container"])
    check("call-after-daemon-reload", seen == (200, {"n": 3}, container), (*seen, notes["startKind"]))
    wait_state(container, "frozen")
    check("frozen-after-daemon-reload", frozen(group), container)


def try_identity_and_metering() -> None:
    """Who functions are, and what is counted."""
    api.deploy("who", WHO)
    status, result, _ = api.invoke("who")
    check("identity", (status, result) == (200, {"uid": 20001, "gid": 20001, "caps": "0" * 16}), result)
    api.deploy("spin", SPIN)
    api.warm("spin", {"s": 0.0})  # its first call pays for the start of the interpreter too
    status, result, notes = api.invoke("spin", {"s": 2.0})
    cpu_s = notes["cpuTime"]["us"] / 1e6
    seen = f"the function saw {result['used']:.2f} s, the cgroup {cpu_s:.2f} s"
    check("cpu", status == 200 and result["used"] <= cpu_s <= 1.5 * result["used"] + 1, seen)
    peak = notes["memoryPeak"]
    major, minor = (int(part) for part in os.uname().release.split(".")[:2])
    quality = "exact" if (major, minor) >= (6, 12) else "lifetime"  # since when a high-water mark can be reset
    check("memory", peak["bytes"] > 4 << 20 and peak["quality"] == quality, (peak, notes["memory"]))


def try_kills() -> None:
    """By the kernel for memory, by the time limit, and of a frozen container."""
    api.deploy("eat", EAT, memory=128)
    status, result, notes = api.invoke("eat")
    check("oom", (status, notes["outcome"]) == (502, "oom"), (status, notes["outcome"], result))
    api.deploy("sleep", SLEEP, timeout=2000)
    status, result, notes = api.invoke("sleep")
    # Slow as it is, the interpreter may not even be up within the limit.
    check("time-limit", status == 502 and notes["outcome"] in {"timeout", "init-timeout"}, (status, notes["outcome"], result))
    gone = notes["container"]
    wait("removal", lambda: gone not in pool())
    container = api.warm("spin", {"s": 0.0})
    began = time.monotonic()
    api.delete("spin")
    wait("removal", lambda: container not in pool())
    seen = f"gone after {time.monotonic() - began:.1f} s; the engine has {len(ours())} containers, the pool {len(pool())}"
    check("kill-frozen", ours() == set(pool()), seen)
    api.delete("sleep")


def try_usage() -> None:
    """What is billed of all this."""
    rows = operate("GET", "/v1/usage")["rows"]
    (anna,) = [row for row in rows if row["namespace"] == "anna"]
    check("usage", anna["activations"] > 10 and anna["cpu_us"] > 2_000_000, anna)


#: In order. What asks for most of the machine comes last.
PARTS: dict[str, Callable[[], None]] = {
    "self-test": try_self_test,
    "calls": try_calls,
    "slice": try_slice,
    "identity-and-metering": try_identity_and_metering,
    "kills": try_kills,
    "hands": try_hands,
    "reclaim": try_reclaim,
    "reload": try_reload,
    "writer": try_writer,
    "nfs": try_nfs,
    "engine-group": try_engine_group,
    "restarts": try_restarts,
    "unwritable": try_unwritable,
    "watchdog": try_watchdog,
    "usage": try_usage,
}


def main(names: list[str]) -> None:
    """Everything, or the parts that are named."""
    key = Path("/root/anna.key")
    if key.exists():
        api.key = key.read_text()
    if not names or run("systemctl", "is-active", "invokerd") != "active":
        try_service()
    for name in names or PARTS:
        with section(name):
            PARTS[name]()
    if not names:
        for line in run("journalctl", "-u", "invokerd", "--no-pager", "-p", "warning", "-n", "60").splitlines():
            print(f"  | {line}")
        tell("PROBE ENDED")


if __name__ == "__main__":
    main(sys.argv[1:])
