"""A real NFS with root squash, which the machine serves to itself: who may do what on it, and what a dead server holds up.

Hard mounts, as sites have them: whoever touches one waits for its server, for ever. The server "dies" by a rule of the
firewall that drops what is sent to it; nobody is told.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from machine import Api, api, check, operate, ours, pool, run, section, tell, wait
from unit import CONFIG, show

EXPORT = Path("/srv/data")
DATA = Path("/data")
CARL, DORA = 20003, 20004
GROUP = 30000
#: Sources: all of it, the same read-only, a user's own directory, and one below it, which a squashed root cannot reach.
OFFERED = {"data": (DATA, False), "data-ro": (DATA, True), "own": (DATA / "carl", False), "deep": (DATA / "carl" / "deep", False)}
DROP = ("-i", "lo", "-p", "tcp", "--dport", "2049", "-j", "DROP")
#: Of a call that needs the dead server, ms.
TIME_LIMIT_MS = 20_000
USE = """
import os
def main(args):
    path = args["path"]
    try:
        if "write" in args:
            with open(path, "w") as file:
                file.write(args["write"])
        with open(path) as file:
            return {"text": file.read(), "owner": os.stat(path).st_uid}
    except OSError as error:
        return {"refused": error.strerror}
"""
ECHO = "def main(args):\n    return args\n"
#: What `use` answers of the files that are tried.
Result = dict[str, Any]


def serve() -> None:
    """Export a directory to this machine, and mount it."""
    for uid, name in ((CARL, "carl"), (DORA, "dora")):
        directory = EXPORT / name
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        run("chown", f"{uid}:{uid}", str(directory))
    together = EXPORT / "together"
    together.mkdir(exist_ok=True)
    together.chmod(0o2770)
    run("chown", f"0:{GROUP}", str(together))
    (EXPORT / "carl" / "deep").mkdir(exist_ok=True)
    Path("/etc/exports").write_text(f"{EXPORT} 127.0.0.1(rw,sync,root_squash,no_subtree_check)\n")
    Path("/etc/nfs.conf.d").mkdir(exist_ok=True)
    # Groups as the client tells them: the users that are tried are not in this server's own lists.
    Path("/etc/nfs.conf.d/vm.conf").write_text("[nfsd]\ngrace-time=10\nlease-time=90\n[mountd]\nmanage-gids=n\n")
    tell(run("systemctl", "restart", "nfs-server") or "the server runs")
    DATA.mkdir(exist_ok=True)
    options = "vers=4.2,proto=tcp,hard,timeo=50,retrans=1"
    said = wait("the mount", lambda: (run("mount", "-t", "nfs", "-o", options, f"127.0.0.1:{EXPORT}", str(DATA)), _mounted())[1])
    check("nfs-mounted", "hard" in said and "vers=4.2" in said, said)


def _mounted() -> str:
    """The line of /proc/mounts about it; nothing while there is none."""
    return next((line for line in Path("/proc/mounts").read_text().splitlines() if line.split()[1] == str(DATA)), "")


@contextmanager
def offered() -> Iterator[None]:
    """The daemon offers the mounts."""
    text = CONFIG.read_text()
    lines = []
    for name, (source, read_only) in OFFERED.items():
        lines += ["[[isolation.mounts]]", f'name = "{name}"', f'source = "{source}"', f'target = "/mnt/{name}"']
        lines.append(f"read_only = {str(read_only).lower()}")
    CONFIG.write_text(text + "\n".join([*lines, ""]))
    run("systemctl", "reload", "invokerd")
    try:
        yield
    finally:
        CONFIG.write_text(text)
        run("systemctl", "reload", "invokerd")


def user(name: str, uid: int, *mounts: str) -> Api:
    """Make a namespace with an action `use`."""
    wanted = {"name": name, "uid": uid, "gid": uid, "groups": [GROUP] if uid == CARL else [], "mounts": list(mounts)}
    made = Api()
    made.key = wait("the mounts to be offered", lambda: _create(wanted), patience_s=120)
    made.deploy("use", USE, timeout=TIME_LIMIT_MS)
    return made


def _create(wanted: dict[str, Any]) -> str:
    with suppress(AssertionError):
        return str(operate("POST", "/v1/namespaces", wanted)["key"])
    return ""


def doctor() -> dict[str, str]:
    """What `invokerd doctor` says of each mount."""
    findings = json.loads(run("invokerd", "doctor", "--config", str(CONFIG), "--json"))["findings"]
    said = [(each["text"], each["verdict"]) for each in findings if each["check"] == "mounts"]
    return {text.partition(":")[0].removeprefix("mount "): f"{verdict}: {text.partition(': ')[2]}" for text, verdict in said}


def try_nfs() -> None:
    """All of it; afterwards nothing is mounted or offered."""
    with section("nfs-server"):
        serve()
    if not _mounted():
        return
    try:
        with offered():
            carl, dora, deep = (
                user("carl", CARL, "data", "data-ro", "own"),
                user("dora", DORA, "data"),
                user("deep", CARL, "deep"),
            )
            with section("nfs-squash"):
                _try_squash(carl, dora, deep)
            with section("nfs-hang"):
                _try_hang(carl)
    finally:
        run("iptables", "-D", "INPUT", *DROP)  # gone already, unless a check has failed
        run("umount", "--lazy", str(DATA))
        run("systemctl", "stop", "nfs-server")


def _try_squash(carl: Api, dora: Api, deep: Api) -> None:
    """Each user reaches what is theirs; root, and so the daemon, reaches nothing of it, and need not."""
    as_root = run("ls", str(DATA / "carl"))
    check("nfs-root-squashed", "Permission denied" in as_root, as_root)

    def use(who: Api, path: str, **more: str) -> Result:
        return {"status": (answer := who.invoke("use", {"path": f"/mnt/{path}", **more}))[0], **answer[1]}

    own = use(carl, "data/carl/note", write="carl's")
    stat = (EXPORT / "carl" / "note").stat()
    seen = {**own, "on the server": f"{stat.st_uid}:{stat.st_gid}"}
    check("nfs-own-directory", own == {"status": 200, "text": "carl's", "owner": CARL} and stat.st_uid == CARL, seen)
    shared = use(carl, "data/together/note", write="ours")
    check("nfs-group", shared == {"status": 200, "text": "ours", "owner": CARL}, shared)
    others = [use(dora, f"data/{path}/note", **more) for path in ("carl", "together") for more in ({}, {"write": "x"})]
    check("nfs-other-refused", all(each == {"status": 200, "refused": "Permission denied"} for each in others), others)
    read, write = use(carl, "data-ro/carl/note"), use(carl, "data-ro/carl/note", write="x")
    check("nfs-read-only", read.get("text") == "carl's" and write.get("refused") == "Read-only file system", (read, write))
    below = use(carl, "own/note")
    check("nfs-own-source", below.get("text") == "carl's", below)
    status, answer = deep.ask("POST", "/api/v1/namespaces/_/actions/use?blocking=true", {"path": "/mnt/deep/x"})
    said = doctor()
    check("nfs-out-of-roots-reach", status == 503 and "Permission denied" in str(answer), (status, answer))
    fine = all(said[name].startswith("ok") for name in ("data", "data-ro", "own"))
    check("nfs-doctor", fine and said["deep"].startswith("bad: root may not reach"), said)


def _try_hang(carl: Api) -> None:
    """The server dies: calls that need it end within their deadlines, the others and the daemon go on; and it comes back."""
    if api.ask("GET", "/api/v1/namespaces/_/actions/echo")[0] != 200:
        api.deploy("echo", ECHO)
    api.warm("echo")
    # What was read before may be read from memory: the server has delegated that.
    unread = EXPORT / "carl" / "unread"
    unread.write_text("new")
    unread.chmod(0o644)
    held = carl.warm("use", {"path": "/mnt/data/carl/note"})
    run("iptables", "-I", "INPUT", *DROP)
    began = time.monotonic()
    status, result, notes = carl.invoke("use", {"path": "/mnt/data/carl/unread"})
    seen = (status, notes["outcome"], result, f"after {time.monotonic() - began:.0f} s")
    check("nfs-hang-call", (status, notes["outcome"], notes["container"]) == (502, "timeout", held), seen)
    status, _, notes = api.invoke("echo", {"n": 1})
    check("nfs-hang-others", (status, notes["startKind"]) == (200, "frozen"), (status, notes["startKind"]))
    wait("the container's removal", lambda: held not in pool() and held not in ours(), patience_s=120)
    check("nfs-hang-removed", held not in ours(), f"{held} is gone")
    for name in ("nfs-hang-cold", "nfs-hang-again"):
        began = time.monotonic()
        status, answer = carl.ask("POST", "/api/v1/namespaces/_/actions/use?blocking=true", {"path": "/mnt/data/carl/note"})
        told = (status, answer, f"after {time.monotonic() - began:.0f} s")
        check(name, status == 503 and "/data has not answered" in str(answer), told)
    api.deploy("unmounted", ECHO)
    status, _, notes = api.invoke("unmounted", {"n": 1})
    check("nfs-hang-others-cold", (status, notes["startKind"]) == (200, "cold"), (status, notes["startKind"]))
    said = doctor()
    check("nfs-hang-doctor", "does not answer" in said["data"], said)
    _try_restart()
    run("iptables", "-D", "INPUT", *DROP)
    again = wait("the server", _answering(carl), patience_s=300)
    check("nfs-back", again == "carl's", again)
    api.delete("unmounted")


def _try_restart() -> None:
    """A restart of the daemon, for which systemd sets up what it may see, meets the dead mount too."""
    before = show("MainPID")
    began = time.monotonic()
    run("systemctl", "restart", "invokerd")
    status, _, notes = api.invoke("echo", {"n": 2})
    seen = (status, notes["startKind"], before, show("MainPID"), f"after {time.monotonic() - began:.0f} s")
    check("nfs-hang-restart", status == 200 and show("MainPID") != before, seen)


def _answering(carl: Api) -> Callable[[], str]:
    """Whether a call reads the file again; refused ones may be tried again only after a while."""

    def answering() -> str:
        status, answer = carl.ask("POST", "/api/v1/namespaces/_/actions/use?blocking=true", {"path": "/mnt/data/carl/note"})
        return str(answer["response"]["result"].get("text", "")) if status == 200 else ""

    return answering
