#!/usr/bin/env python3
"""The demo: deploy the example actions, run them, check what they did, and say what it cost.

Two namespaces with different users take part. Namespace A has the directory `--data` at /data, read-only. The main job is the
hit finder: frames are generated into that directory, the action finds their Bragg peaks by reference, and the peaks found
are compared with those that were planted. Exit code 0 only if every check has passed.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from catalogue import BALL, CHECKSUM, HERE, HIT_FINDER, HIT_RATE, RESOLUTION, RINGS, WHO_AM_I, Example, compile_c
from hitfinder import generate
from hitfinder.check import RunScore, score_run, summary
from openwhisk import ApiError, Call, OpenWhisk
from report import START_KINDS, Metering, as_json, as_milliseconds, as_money, print_table, read_ledger, total_cost
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from invoker.commands.ctl_code import make_exec

RUN = "run0001"

#: Deployed and called before anything else.
FIRST = RESOLUTION
#: Called cold or from a stem cell, warm, and frozen; each returns the same every time.
TOUR = (FIRST, HIT_RATE, RINGS, BALL)

#: The daemon freezes an idle container 50 ms after its last call; the demo is idle for this long before a call that should
#: find it frozen, and for twice as long each time it was not yet.
IDLE_S = 0.15
TRIES = 6


@dataclass(kw_only=True)
class Demo:
    """One run of the demo.

    Attributes:
        a, b: the two namespaces.
        data: directory on this host that namespace A sees at /data.
        console: where to tell people what happens.
        show_progress: whether bars make sense there.
        metered: every activation so far.
        checks: (what, whether it held, detail), in order.
    """

    a: OpenWhisk
    b: OpenWhisk
    data: Path
    options: argparse.Namespace
    console: Console
    show_progress: bool
    started: float = field(default_factory=time.monotonic)
    metered: list[Metering] = field(default_factory=list)
    checks: list[tuple[str, bool, str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def check(self, what: str, held: bool, detail: str = "") -> None:
        """Note a check; a failed one is printed at once."""
        self.checks.append((what, held, detail))
        if not held:
            self.console.print(f"[red]FAILED[/red] {what}: {detail}")

    def title(self, text: str) -> None:
        """Begin a section, with the time since the start."""
        self.console.print(f"\n[bold]{text}[/bold] [dim]({time.monotonic() - self.started:.1f} s)[/dim]")

    async def call(self, name: str, arguments: Mapping[str, Any], client: OpenWhisk | None = None) -> Call:
        """Invoke, and keep the metering."""
        call = await (client or self.a).invoke(name, arguments)
        self.metered.append(Metering.of(call))
        return call

    async def deploy(self, example: Example, client: OpenWhisk | None = None, file: Path | None = None) -> None:
        """Deploy an example as `invokerctl action create` does; `file` stands in for one that has none."""
        path = HERE / example.file if example.file else file
        execution = make_exec(path, kind=example.kind, native=example.native, docker=example.docker, main=None)
        limits = {"memory": example.memory_mib} if example.memory_mib else None
        await (client or self.a).put_action(example.name, execution, limits)

    async def first_result(self) -> None:
        """Deploy and call one action before anything else, so that there is something to see."""
        await self.deploy(FIRST)
        call = await self.call_and_verify(FIRST)
        metering = self.metered[-1]
        began = self.options.began
        self.facts["first_result_s"] = round(time.time() - began if began else time.monotonic() - self.started, 3)
        self.console.print(
            f"[bold]First result[/bold] {self.facts['first_result_s']:.1f} s after the command: {FIRST.name} (Python, "
            f"{metering.start_kind} start, {as_milliseconds(call.wall_us)} ms): {json.dumps(call.result)}"
        )

    async def call_and_verify(self, example: Example) -> Call:
        """Make the example's own call, and check what it returns."""
        call = await self.call(example.name, example.arguments)
        ended = json.dumps(call.record.get("response"))[:300]
        wrong = example.verify(call.result) if call.success else f"it ended with {ended}"
        self.check(f"{example.name} returns the right result", wrong is None, wrong or "")
        return call

    async def deploy_all(self) -> None:
        """Deploy the other examples in A, and `whoami` in both namespaces."""
        self.title("Deploying the examples")
        with tempfile.TemporaryDirectory(prefix="invokerd-demo-") as directory:
            binary = await asyncio.to_thread(compile_c, HERE / "c" / "ball.c", Path(directory))
            await self.deploy(BALL, file=binary)
        others = (HIT_RATE, RINGS, CHECKSUM, HIT_FINDER, WHO_AM_I)
        for example in others:
            await self.deploy(example)
        await self.deploy(WHO_AM_I, self.b)
        names = ", ".join(example.name for example in (FIRST, BALL, *others))
        self.console.print(f"{names}; {WHO_AM_I.name} in both namespaces")

    async def tour(self) -> None:
        """Call each example from nothing, at once again, and after a pause, so that the table shows each start kind."""
        self.title("Calling each of them cold, warm and frozen")
        for example in TOUR[1:]:
            await self.call_and_verify(example)
        for example in TOUR:
            for kind in ("warm", "frozen"):
                await self._call_until(kind, functools.partial(self.call_and_verify, example))
        for _ in range(TRIES):  # a new revision meets no container of the old one, but a stem cell as soon as there is one
            if any(entry.start_kind == "stem" for entry in self.metered) or "stem" not in self.options.expect_starts:
                break
            await asyncio.sleep(IDLE_S * 4)
            await self.deploy(FIRST)
            await self.call_and_verify(FIRST)

    async def _call_until(self, kind: str, call: Callable[[], Awaitable[Call]]) -> Call:
        """Call at once (warm) or after a pause (frozen) until the start was of that kind, a few times at most."""
        idle_s = 0.0 if kind == "warm" else IDLE_S
        for _ in range(TRIES):
            await asyncio.sleep(idle_s)  # the pause is what is shown here
            last = await call()
            if self.metered[-1].start_kind == kind:
                break
            idle_s *= 2
        return last

    async def identities(self) -> None:
        """Ask both namespaces who they are and what they see."""
        self.title("Who the actions are")
        answers = {}
        for name, client, expected in (("A", self.a, self.options.uid_a), ("B", self.b, self.options.uid_b)):
            who = answers[name] = (await self.call(WHO_AM_I.name, WHO_AM_I.arguments, client)).result
            mount = who.get("mount", {})
            self.console.print(
                f"namespace {name}: uid {who.get('uid')}, gid {who.get('gid')}, groups {who.get('groups')}, "
                f"capabilities {who.get('capabilities')}; /data "
                + (f"is there, writing is refused ({mount.get('refusal')})" if mount.get("visible") else "is not there")
            )
            self.check(f"namespace {name} runs as an ordinary user", bool(who.get("uid")), f"its uid is {who.get('uid')}")
            if expected is not None:
                self.check(f"namespace {name} runs as uid {expected}", who.get("uid") == expected, f"its uid is {who.get('uid')}")
            capable = int(who.get("capabilities") or "1", 16)
            self.check(f"namespace {name} has no capabilities", capable == 0, f"CapEff is {who.get('capabilities')}")
            sealed = who.get("no_new_privileges") is True
            self.check(f"namespace {name} can gain no privileges", sealed, "NoNewPrivs is 0 in /proc/self/status")
        a, b = answers["A"], answers["B"]
        self.facts["uids"] = [a.get("uid"), b.get("uid")]
        self.check("the namespaces run as different users", a.get("uid") != b.get("uid"), f"both are {a.get('uid')}")
        mount = a.get("mount", {})
        self.check("A sees /data, read-only", mount.get("visible") is True and mount.get("writable") is False, json.dumps(mount))
        self.check("B does not see A's /data", b.get("mount", {}).get("visible") is False, json.dumps(b.get("mount")))

    async def generate(self) -> dict[str, Any]:
        """Write the frames, unless the same ones are there already; return their truth."""
        settings = generate.Settings(
            frames=self.options.frames, seed=self.options.seed, size=self.options.size, compression=self.options.compression
        )
        self.title(f"Generating {settings.frames} detector frames of {settings.size} x {settings.size} pixels")
        directory = self.data / RUN
        truth = generate.read_run(directory, settings)
        if truth is None:
            with self._progress("frames") as progress:
                bar = progress.add_task("", total=settings.frames)
                truth = await asyncio.to_thread(
                    generate.write_run, directory, settings, lambda done: progress.update(bar, completed=done)
                )
            self.console.print(f"written to {directory}, seed {settings.seed}, {settings.compression}")
        else:
            self.console.print(f"they are in {directory} already (seed {settings.seed})")
        return truth

    def _progress(self, what: str) -> Progress:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn())
        return Progress(*columns, console=self.console, transient=True, disable=not self.show_progress)

    async def find_hits(self, truth: Mapping[str, Any]) -> None:
        """Send each frame's path to the hit finder, many at a time, and compare what comes back with the truth."""
        entries = truth["frames"]
        self.title(f"Finding Bragg peaks: {len(entries)} frames by path, {self.options.concurrency} calls at a time")
        alone = await self._find_peaks(entries[0])
        began = time.monotonic()
        results = await self._find_all(entries)
        seconds = time.monotonic() - began
        frozen = await self._call_until("frozen", functools.partial(self._find_peaks, entries[0]))
        busy = next(
            result for result in results if (result["file"], result["event"]) == (entries[0]["file"], entries[0]["event"])
        )
        same = alone.result.get("peaks") == busy.get("peaks") == frozen.result.get("peaks") is not None
        self.check("a frame has the same peaks whatever container finds them", same, f"they differ for {entries[0]['file']}")
        self._judge(score_run(results, truth), seconds)

        frames = [{"hit": result.get("hit") is True, "n_peaks": result.get("n_peaks", 0)} for result in results]
        rate = await self.call(HIT_RATE.name, {"frames": frames})
        crystals = sum(frame["hit"] for frame in entries)
        self.console.print(f"hitrate (Node) on these results: {json.dumps(rate.result)}; planted: {crystals} of {len(entries)}")
        hits = sum(frame["hit"] for frame in frames)
        self.check("hitrate counts the same hits", rate.result.get("hits") == hits, f"{rate.result}, but there are {hits}")

    async def _find_peaks(self, entry: Mapping[str, Any]) -> Call:
        """Call the hit finder for one frame of the truth."""
        return await self.call(HIT_FINDER.name, {"path": f"/data/{RUN}/{entry['file']}", "event": entry["event"]})

    async def _find_all(self, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Call the hit finder for all frames; results in the order in which they came, each with `file`."""
        results: list[dict[str, Any]] = []
        todo = iter(entries)

        async def work(advance: Callable[[], None]) -> None:
            for entry in todo:  # one iterator for all: whoever is free takes the next frame
                call = await self._find_peaks(entry)
                results.append({"path": entry["file"], "event": entry["event"], **call.result, "file": entry["file"]})
                advance()

        with self._progress("frames") as progress:
            bar = progress.add_task("", total=len(entries))
            async with asyncio.TaskGroup() as group:
                for number in range(self.options.concurrency):
                    group.create_task(work(functools.partial(progress.advance, bar)), name=f"frames {number}")
        return results

    def _judge(self, run: RunScore, seconds: float) -> None:
        """Print how good the run was, and turn each of its failures into a failed check."""
        frames = self.options.frames
        self.console.print(f"{summary(run)}; {frames / seconds:.1f} frames/s")
        self.facts |= {
            "frames": len(run.frames),
            "frames_per_s": round(frames / seconds, 2),
            "recall": round(run.recall, 5),
            "visible_peaks": run.total("visible"),
            "found_peaks": run.total("found"),
            "false_peaks": run.false_peaks,
        }
        self.check("every frame was analysed", len(run.frames) == frames, f"{len(run.frames)} of {frames}")
        for failure in run.failures:
            self.check("the peaks found are the planted ones", held=False, detail=failure)
        if not run.failures:
            self.check("the peaks found are the planted ones", held=True)

    async def by_reference(self, truth: Mapping[str, Any]) -> None:
        """Have the shell action sum a frame that this host can read, too; and give the hit finder what it must refuse."""
        file = truth["frames"][0]["file"]
        path = f"/data/{RUN}/{file}"
        call = await self.call(CHECKSUM.name, {"path": path})
        for kind in ("warm", "frozen"):
            call = await self._call_until(kind, functools.partial(self.call, CHECKSUM.name, {"path": path}))
        expected = hashlib.sha256((self.data / RUN / file).read_bytes()).hexdigest()
        right = call.result.get("sha256") == expected
        self.check("checksum (shell) reads the very bytes", right, json.dumps(call.record.get("response")))
        self.title("Bad input is answered with a sentence")
        for arguments in (
            {"path": f"/data/{RUN}/no-such-frame.h5"},
            {"path": "/etc/passwd"},
            {"path": f"/data/{RUN}/truth.json"},
            {"path": path, "snr": "high"},
            {},
        ):
            call = await self.call(HIT_FINDER.name, arguments)
            error = call.result.get("error")
            status = call.record.get("response", {}).get("status")
            self.console.print(f"{json.dumps(arguments)}: {error}")
            good = status == "application error" and isinstance(error, str) and "Traceback" not in error
            what = f"hitfinder {json.dumps(arguments)} is an application error"
            self.check(what, good, f"{status}: {json.dumps(call.result)[:200]}")

    def _check_start_kinds(self) -> None:
        seen = {entry.start_kind for entry in self.metered}
        for kind in self.options.expect_starts:
            self.check(f"a {kind} start was seen", kind in seen, f"start kinds seen: {', '.join(sorted(seen))}")

    async def conclude(self) -> None:
        """Print table, bill and checks; note the checks on the whole of it."""
        if self.metered:
            self.title("Every call, as metered")
            print_table(self.console, self.metered)
            await self._bill()
        passed = sum(held for _, held, _ in self.checks)
        verdict = f"{passed} of {len(self.checks)} checks passed"
        if passed == len(self.checks):
            self.console.print(f"[bold green]{verdict}[/bold green]")
        else:
            self.console.print(f"[bold red]{verdict}[/bold red]. What failed:")
            for what, held, detail in self.checks:
                if not held:
                    self.console.print(f"  {what}: {detail}", markup=False)

    async def _bill(self) -> None:
        """Add up what all activations cost."""
        try:
            total = total_cost(self.metered)
            frames = total_cost(entry for entry in self.metered if entry.action == HIT_FINDER.name)
        except ValueError as error:
            self.check("every activation has a cost", held=False, detail=str(error))
            return
        self.check("every activation has a cost", held=True)
        first = self.metered[0]
        self.facts["cost"] = {"amount": as_money(total), "currency": first.currency, "plan": first.plan}
        self.console.print(
            f"\n[bold]Cost of the run: {as_money(total)} {first.currency}[/bold] for {len(self.metered)} activations"
            f" (plan {first.plan or '-'}); of it the hit finder: {as_money(frames)} {first.currency}"
        )
        if calls := sum(entry.action == HIT_FINDER.name for entry in self.metered):
            self.console.print(f"At this rate a million frames cost {frames / calls * 1_000_000:.2f} {first.currency}.")
        if self.options.config:
            await self._audit(self.options.config)

    async def _audit(self, config: Path) -> None:
        """Compare the bill, added up from what the callers were told, with the node's own ledger."""
        told = (len(self.metered), total_cost(self.metered))
        try:
            ledger = await asyncio.to_thread(read_ledger, config, at_least=len(self.metered))
        except OSError as error:
            self.check("the ledger can be read", held=False, detail=str(error))
            return
        same = ledger == told
        self.check("the ledger has the same activations and the same sum", same, f"ledger {ledger}, told {told}")
        if same:
            self.console.print(f"The node's ledger has the same {told[0]} activations and the same sum, to the last digit.")

    async def run(self) -> None:
        """Do all of it, in the order in which it is nice to watch; what cannot be done is a failed check and ends it."""
        try:
            await self.first_result()
            await self.deploy_all()
            await self.identities()
            await self.tour()
            truth = await self.generate()
            await self.find_hits(truth)
            await self.by_reference(truth)
            self._check_start_kinds()
        except* (ApiError, OSError) as failed:
            for error in failed.exceptions:
                self.check("the demo runs to its end", held=False, detail=str(error))
        await self.conclude()


def _key(text: str) -> str:
    """Take a key from the command line, or from a file, where `ps` does not show it."""
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text().strip()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text[1:]}: {error.strerror}") from error


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read and check the command line; exits with 2 and a sentence when it makes no sense."""
    parser = argparse.ArgumentParser(description="Deploy the example actions, run them, check the results, print the bill.")
    parser.add_argument("--apihost", required=True, help="address of the daemon, host:port or URL")
    parser.add_argument(
        "--auth-a", required=True, type=_key, help="key of the namespace that has --data at /data; @FILE reads it from a file"
    )
    parser.add_argument("--auth-b", required=True, type=_key, help="key of another namespace, with another uid; or @FILE")
    parser.add_argument(
        "--data", required=True, type=Path, help="directory of this host that namespace A sees at /data, read-only"
    )
    parser.add_argument("--config", type=Path, help="the daemon's configuration: compare the bill with its ledger")
    parser.add_argument("--began", type=float, help="when the user began to wait for a first result, Unix seconds (now)")
    parser.add_argument("--frames", type=int, default=40, help="detector frames to analyse (%(default)s)")
    parser.add_argument("--size", type=int, default=1024, help="edge of a frame, pixels (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the frames (%(default)s)")
    parser.add_argument("--compression", choices=("gzip", "bitshuffle", "none"), default="gzip", help="(%(default)s)")
    parser.add_argument("--concurrency", type=int, default=os.cpu_count() or 2, help="frames in flight (%(default)s)")
    parser.add_argument("--uid-a", type=int, help="uid that actions of namespace A must have")
    parser.add_argument("--uid-b", type=int, help="uid that actions of namespace B must have")
    parser.add_argument(
        "--expect-starts", nargs="*", choices=START_KINDS, default=list(START_KINDS), help="start kinds that must be seen (all)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout; the story goes to stderr")
    options = parser.parse_args(arguments)
    if options.concurrency < 1:
        parser.error("--concurrency must be at least 1")
    try:
        generate.Settings(frames=options.frames, seed=options.seed, size=options.size)
        generate.dataset_filter(options.compression)
    except ValueError as error:
        parser.error(str(error))
    return options


async def run(options: argparse.Namespace) -> int:
    """Run the demo; return the exit code: 0 when every check has passed, 1 when not, 2 for a key that is none."""
    console = Console(stderr=options.json, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 200  # a pipe has no width; lines must not break there
    os.umask(0o022)  # the frames are read by another user
    timeout = aiohttp.ClientTimeout(total=180)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        try:
            a, b = (OpenWhisk(session, options.apihost, key) for key in (options.auth_a, options.auth_b))
        except ApiError as error:
            console.print(f"[red]FAILED[/red] {error}")
            return 2
        demo = Demo(a=a, b=b, data=options.data, options=options, console=console, show_progress=console.is_terminal)
        await demo.run()
    if options.json:
        print(
            json.dumps(
                {
                    **demo.facts,
                    "table": as_json(demo.metered),
                    "checks": [{"check": what, "passed": held, "detail": detail} for what, held, detail in demo.checks],
                }
            )
        )
    return 0 if all(held for _, held, _ in demo.checks) else 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return asyncio.run(run(parse(arguments)))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
