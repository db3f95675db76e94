"""The unit: reload, restarts with adoption, the watchdog, and cgroups that it may not write to."""

from __future__ import annotations

from pathlib import Path

from machine import CGROUPS, api, check, pool, read, run, section, wait, wait_state

ECHO = "def main(args):\n    return args\n"
CONFIG = Path("/etc/invokerd/invokerd.toml")
READ_ONLY = Path("/run/systemd/system/invokerd.service.d/read-only.conf")


def show(*properties: str) -> dict[str, str]:
    """Properties of the service, as systemd has them."""
    lines = run("systemctl", "show", *(f"--property={name}" for name in properties), "invokerd").splitlines()
    return dict(line.split("=", 1) for line in lines)


def journal(since: str) -> str:
    """What the daemon has logged since a cursor."""
    return run("journalctl", "-u", "invokerd", "--no-pager", "-o", "cat", f"--after-cursor={since}")


def cursor() -> str:
    """The journal's end."""
    said = run("journalctl", "-n", "0", "--show-cursor", "--no-pager")
    return said.rsplit("-- cursor: ", 1)[-1]


def try_reload() -> None:
    """`systemctl reload` applies what may change, under the same process."""
    before, since = show("MainPID"), cursor()
    text = CONFIG.read_text()
    CONFIG.write_text(text + '[log]\nlevel = "debug"\n')
    said = run("systemctl", "reload", "invokerd")
    told = wait("the reload", lambda: [line for line in journal(since).splitlines() if "reload: " in line], patience_s=120)
    status, _ = api.ask("GET", "/ping")
    CONFIG.write_text(text)
    run("systemctl", "reload", "invokerd")
    holds = "log.level" in told[0] and show("MainPID") == before and status == 200
    check("reload", holds, f"{said} {told[0]}")


def try_writer() -> None:
    """The writer's process is in an idle CPU cgroup of its own, which goes with it; the next daemon makes another."""
    main = show("MainPID")["MainPID"]
    groups = list(CGROUPS.glob("invokerd-writer-*"))
    members = [pid for group in groups for pid in (group / "cgroup.procs").read_text().split()]
    parents = [Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1] for pid in members]
    idle = [read(group, "cpu.idle") for group in groups]
    seen = f"{[group.name for group in groups]}: {idle}, its process {members}, of {parents}; the daemon is {main}"
    check("writer-idle", (idle, parents) == ([{"cpu.idle": "1"}], [main]), seen)
    run("systemctl", "stop", "invokerd")
    left = [group.name for group in CGROUPS.glob("invokerd-writer-*")]
    run("systemctl", "start", "invokerd")
    groups = list(CGROUPS.glob("invokerd-writer-*"))
    seen = f"after systemctl stop: {left}, after a start {[group.name for group in groups]}"
    check("writer-gone", not left and len(groups) == 1, seen)


def try_restarts() -> None:
    """The service restarted, and killed: nobody who connects is refused, and its containers go on serving."""
    if api.ask("GET", "/api/v1/namespaces/_/actions/echo")[0] != 200:
        api.deploy("echo", ECHO)
    for how, command in (("restart", ("restart",)), ("kill", ("kill", "--signal=KILL"))):
        with section(f"service-{how}"):
            api.warm("echo")
            before = {name for name, row in pool().items() if row["state"] == "frozen" and row["action"] == "anna/echo"}
            pid = show("MainPID")
            run("systemctl", *command, "invokerd")
            # Sent while nobody may be there: the socket is systemd's, and the call waits.
            status, _, notes = api.invoke("echo", {"n": 4})
            adopted = status == 200 and notes["container"] in before
            seen = (status, notes["startKind"], notes["container"], f"process {pid} then {show('MainPID')}")
            check(f"adopted-after-{how}", adopted and show("MainPID") != pid, seen)


def try_unwritable() -> None:
    """Cgroups that cannot be written: what was frozen is replaced, calls are warm, and the node says so."""
    frozen_before = api.warm("echo")
    READ_ONLY.parent.mkdir(parents=True, exist_ok=True)
    READ_ONLY.write_text("[Service]\nProtectControlGroups=yes\n")
    try:
        run("systemctl", "daemon-reload")
        run("systemctl", "restart", "invokerd")
        status, _, notes = api.invoke("echo", {"n": 1})
        first = (status, notes["startKind"], "the old one" if notes["container"] == frozen_before else "another")
        check("unwritable-call", status == 200 and notes["container"] != frozen_before, first)
        told = wait("the self-test", lambda: not (each := api.check_of("freezing"))["ok"] and each)
        check("unwritable-told", "stay warm" in told["detail"], told["detail"])
        api.invoke("echo", {"n": 2})
        status, _, notes = api.invoke("echo", {"n": 3})
        check("unwritable-warm", (status, notes["startKind"]) == (200, "warm"), (status, notes["startKind"]))
    finally:
        READ_ONLY.unlink()
        run("systemctl", "daemon-reload")
        run("systemctl", "restart", "invokerd")
    status, _, notes = api.invoke("echo", {"n": 4})
    wait_state(notes["container"], "frozen")
    check("writable-again", status == 200, (status, notes["startKind"], "frozen again"))


def try_watchdog() -> None:
    """It is fed; and a daemon that stands still is ended and started again, with its containers."""
    fed = int(show("WatchdogTimestampMonotonic")["WatchdogTimestampMonotonic"])
    again = wait(
        "the next sign of life",
        lambda: (now := int(show("WatchdogTimestampMonotonic")["WatchdogTimestampMonotonic"])) > fed > 0 and now,
        patience_s=200,
    )
    check("watchdog-fed", again > fed, f"WATCHDOG=1 came again after {(again - fed) / 1e6:.0f} s")
    container, before = api.warm("echo"), show("MainPID", "NRestarts")
    run("systemctl", "kill", "--signal=STOP", "--kill-whom=main", "invokerd")
    status, _, notes = api.invoke("echo", {"n": 6})
    after = show("MainPID", "NRestarts", "Result")
    seen = (status, notes["startKind"], notes["container"] == container, before, after)
    check("watchdog-restarts", status == 200 and after["MainPID"] != before["MainPID"] and notes["container"] == container, seen)
