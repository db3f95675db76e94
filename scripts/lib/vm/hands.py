"""Hands from outside: containers paused, thawed, killed and removed by somebody else, idle and under a call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from machine import api, cgroup_of, check, engine, frozen, ours, pool, section, state, wait, wait_state

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


def docker(verb: str, container: str) -> None:
    """Do as `docker VERB` does."""
    method, path = ("DELETE", "?force=1") if verb == "rm" else ("POST", f"/{verb}")
    engine(method, f"/containers/{container}{path}")


def try_hands() -> None:
    """Each of them; the next call is served whatever was done."""
    api.deploy("hands", SLEEP)
    for verb in ("kill", "rm"):
        with section(f"{verb}-idle"):
            _try_ended_idle(verb)
        with section(f"{verb}-busy"):
            _try_ended_busy(verb)
    with section("pause-busy"):
        _try_paused_busy()
    with section("pause-idle"):
        _try_paused_idle()
    with section("thaw-idle"):
        _try_thawed()
    api.delete("hands")
    wait("its removal", lambda: not any(row["action"] == "anna/hands" for row in pool().values()))
    wait("no orphans", lambda: ours() == set(pool()))
    check("nothing-left", ours() == set(pool()), f"engine and pool have the same {len(ours())} containers")


def _try_ended_idle(verb: str) -> None:
    container = api.warm("hands", {"s": 0})
    docker(verb, container)  # a frozen process of version 2 takes the signal, unlike one of version 1
    wait_state(container, "gone", patience_s=120)
    status, _, notes = api.invoke("hands", {"s": 0})
    check(f"{verb}-idle", status == 200 and notes["container"] != container, f"replaced: {container} by {notes['container']}")


def _try_ended_busy(verb: str) -> None:
    container = api.warm("hands", {"s": 0})
    call = Call("hands", 200)
    wait_state(container, "busy")
    docker(verb, container)
    call.join(150)
    status, _, notes = call.answer
    check(f"{verb}-busy", (status, notes.get("outcome")) == (502, "crashed"), (status, notes.get("outcome"), call.is_alive()))


def _try_paused_busy() -> None:
    container = api.warm("hands", {"s": 0})
    call = Call("hands", 3)
    wait_state(container, "busy")
    docker("pause", container)
    call.join(150)
    status, result, notes = call.answer
    seen = (status, result, notes.get("startKind"))
    check("pause-busy", (status, result) == (200, {"slept": 3}), seen)


def _try_paused_idle() -> None:
    container = _any_idle()
    docker("pause", container)
    status, result, notes = api.invoke("hands", {"s": 0})
    check("pause-idle", status == 200, (status, result, notes["startKind"], notes["container"] == container))
    said = engine("GET", f"/containers/{notes['container']}/json")["State"]["Status"]
    wait_state(notes["container"], "frozen")
    check("frozen-after-pause", frozen(cgroup_of(notes["container"])), f"docker says {said}")


def _try_thawed() -> None:
    container = _any_idle()
    group = cgroup_of(container)
    (group / "cgroup.freeze").write_text("0")
    wait("the kernel to thaw it", lambda: not frozen(group))
    _wait_seen(lambda: frozen(group))
    status, _, notes = api.invoke("hands", {"s": 0})
    check("thaw-idle", status == 200 and notes["container"] == container, (status, notes["startKind"], state(container)))


def _any_idle() -> str:
    """A frozen container of the action that the engine does not believe to be paused."""
    container = api.warm("hands", {"s": 0})
    if engine("GET", f"/containers/{container}/json")["State"]["Status"] == "running":
        return container
    docker("rm", container)
    wait_state(container, "gone", patience_s=120)
    return api.warm("hands", {"s": 0})


def _wait_seen(holds: Callable[[], bool]) -> None:
    """The daemon looks each minute."""
    wait("it to be frozen again", holds, patience_s=200)
