"""Hands from outside: containers paused, thawed, killed and removed by somebody else, idle and under a call."""

from __future__ import annotations

import threading
from typing import Any

from machine import api, cgroup_of, check, engine, frozen, ours, pool, section, wait, wait_state

SLEEP = "import time\ndef main(args):\n    time.sleep(args['s'])\n    return {'slept': args['s']}\n"


class Call(threading.Thread):
    """A call under way. `join` it, then read `answer`: status, result, annotations."""

    answer: tuple[int, dict[str, Any], dict[str, Any]] = (0, {}, {})

    def __init__(self, action: str, seconds: float) -> None:
        super().__init__(daemon=True)
        self._action, self._seconds = action, seconds
        self.start()

    def run(self) -> None:
        """Call it."""
        self.answer = api.invoke(self._action, {"s": self._seconds})


def docker(verb: str, container: str) -> str:
    """Do as `docker VERB` does; what the engine says. One that finds the container frozen already may refuse to pause it."""
    method, path = ("DELETE", "?force=1") if verb == "rm" else ("POST", f"/{verb}")
    try:
        return f"{verb}: {engine(method, f'/containers/{container}{path}') or 'done'}"
    except AssertionError as refusal:
        if verb != "pause":
            raise
        return f"{verb}: {refusal}"


def try_hands() -> None:
    """Each of them; the next call is served whatever was done. A start takes long here: each container serves several."""
    api.deploy("hands", SLEEP)
    with section("kill-idle"):
        _try_ended_idle("kill")
    with section("kill-busy"):
        _try_ended_busy()
    with section("rm-idle"):
        _try_ended_idle("rm")
    with section("pause-busy"):
        _try_paused_busy()
    with section("unpause-idle"):
        _try_thawed()
    with section("pause-idle"):
        _try_paused_idle()
    api.delete("hands")
    wait("its removal", lambda: not any(row["action"] == "anna/hands" for row in pool().values()))
    wait("no orphans", lambda: ours() == set(pool()))
    check("nothing-left", ours() == set(pool()), f"engine and pool have the same {len(ours())} containers")


def _try_ended_idle(verb: str) -> None:
    container = api.warm("hands", {"s": 0})
    docker(verb, container)  # a frozen process of version 2 takes the signal, unlike one of version 1
    wait_state(container, "gone", patience_s=200)
    status, _, notes = api.invoke("hands", {"s": 0})
    check(f"{verb}-idle", status == 200 and notes["container"] != container, f"{container} was replaced by {notes['container']}")


def _try_ended_busy() -> None:
    container = api.warm("hands", {"s": 0})
    call = Call("hands", 250)
    wait_state(container, "busy")
    docker("kill", container)
    call.join(200)
    status, _, notes = call.answer
    check("kill-busy", (status, notes.get("outcome")) == (502, "crashed"), (status, notes.get("outcome")))


def _try_paused_busy() -> None:
    """The daemon thaws what should run."""
    container = api.warm("hands", {"s": 0})
    call = Call("hands", 20)
    wait_state(container, "busy")
    said = docker("pause", container)
    call.join(250)
    status, result, notes = call.answer
    check("pause-busy", (status, result) == (200, {"slept": 20}), (said, status, result, notes.get("container") == container))


def _try_thawed() -> None:
    """Thawed by the engine, which believes that it paused it: the daemon freezes it again when it looks, each minute."""
    container = api.warm("hands", {"s": 0})
    group = cgroup_of(container)
    said = docker("unpause", container)
    wait("it to be frozen again", lambda: frozen(group), patience_s=300)
    status, _, notes = api.invoke("hands", {"s": 0})
    seen = (said, "frozen again", status, notes["startKind"], notes["container"] == container)
    check("unpause-idle", status == 200 and notes["container"] == container, seen)


def _try_paused_idle() -> None:
    container = api.warm("hands", {"s": 0})
    said = docker("pause", container)
    status, _, notes = api.invoke("hands", {"s": 0})
    check("pause-idle", status == 200, (said, status, notes["startKind"], notes["container"] == container))
    wait_state(notes["container"], "frozen")
    check("frozen-after-pause", frozen(cgroup_of(notes["container"])), notes["container"])
