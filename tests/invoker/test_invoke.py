"""One invocation on the real pool, planner, recorder and journal; only the engine is a fake."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from invoker_site import ANNA, VAULT, Site, action, error_of, site, until

from invoker.activation import Accepted, Activation, Status
from invoker.errors import IdempotencyConflict, JournalFull, ParametersNotAllowed
from invoker.http.exchange import Reply
from invoker.invocation import Accepted202
from invoker.lost import Lost
from invoker.model import Annotation, Exec, Identity, LimitOverrides, Limits, Parameter
from invoker.plan import Facts
from invoker.record.recorder import Recorder
from invoker.ticket import Ticket
from invoker.vault import ParameterUnreadable, Vault
from pool.backend import Image
from pool.connection import Connection
from pool.errors import ContainerUnreachable, EngineUnavailable, ImageNotFound, PoolClosed, ThawFailed
from pool.fake_server import Answer, Misbehaviour, echo
from pool.logs import AttachedLogReader
from pool.model import ActivationId, LogTransport, StartKind


async def test_cold_then_warm_with_disjoint_phases_that_cover_the_time(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        s.backend.delay["create"] = 0.02
        cold = await s.run()
        began = time.monotonic()
        warm = await s.run(received=began)
        took_us = (time.monotonic() - began) * 1e6
        assert (cold.meter.start_kind, warm.meter.start_kind) == (StartKind.COLD, StartKind.WARM)
        assert cold.status is Status.SUCCESS
        assert bytes(cold.result or b"") == b'{"x":1}'
        assert cold.meter.phases.create >= 20_000
        assert cold.init_ms is not None
        assert warm.init_ms is None
        assert warm.meter.phases.init == 0
        assert warm.meter.phases.total <= took_us + 10
        assert cold.meter.billed_us == cold.meter.phases.init + cold.meter.phases.run
        assert cold.end_ms - cold.start_ms == round(cold.meter.billed_us / 1000)


async def test_record_is_readable_when_the_answer_is_there_and_holds_the_log_lines(tmp_path: Path):
    async with site(tmp_path) as s:
        s.backend.action = lambda path, body: Answer(logs=(("stdout", "hi"),)) if path == "/run" else echo(path, body)
        done = await s.run()
        assert await s.recorder.records.get("anna", done.activation_id) == done
        lines = await s.recorder.records.get_logs("anna", done.activation_id)
        assert lines is not None
        assert [line.partition("Z ")[2] for line in lines] == ["stdout: hi"]


@pytest.mark.parametrize("way", ["long", "short"])
async def test_lines_that_were_written_before_the_answer_are_in_the_record_though_the_answer_is_seen_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
):
    monkeypatch.setattr("pool.logs.PipeLogReader._on_readable", lambda _self: None)
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        said = tuple(("stdout", str(number)) for number in range(1000))
        s.backend.action = lambda path, body: Answer(logs=said) if path == "/run" else echo(path, body)
        done = await s.run()
        if way == "short":
            done = await go_short(s, time.monotonic())
        lines = await s.recorder.records.get_logs("anna", done.activation_id)
        assert lines is not None
        assert [line.partition("stdout: ")[2] for line in lines] == [text for _, text in said]


async def test_the_answer_of_a_foreign_image_does_not_wait_for_its_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    silence = asyncio.Event()

    async def wait_complete(_self: AttachedLogReader, _deadline: float) -> None:
        await silence.wait()

    monkeypatch.setattr(AttachedLogReader, "wait_complete", wait_complete)
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        image = Image(image_id="sha256:1", logs=LogTransport.ATTACHED, server_keep_alive_s=1.0)
        s.backend.images[s.planner.reference_of(action())] = image
        s.backend.action = lambda path, body: Answer(logs=(("stdout", "late"),)) if path == "/run" else echo(path, body)
        done = await s.run()
        assert done.status is Status.SUCCESS
        silence.set()
        await s.invoker.wait_idle()
        lines = await s.recorder.records.get_logs("anna", done.activation_id)
        assert lines is not None
        assert [line.partition("stdout: ")[2] for line in lines] == ["late"]


async def test_what_the_action_is_told(tmp_path: Path):
    told: dict[str, Any] = {}

    def listen(path: str, body: Any) -> Answer:
        told[path] = body
        return echo(path, body)

    async with site(tmp_path) as s:
        s.backend.action = listen
        parameters = (Parameter(key="SECRET", value=msgspec.Raw(b'"s"'), init=True), Parameter(key="y", value=msgspec.Raw(b"2")))
        done = await s.run(action("p/hello", parameters=parameters))
        environment = told["/init"]["value"]["env"]
        assert environment["SECRET"] == "s"
        assert environment["__OW_ACTION_NAME"] == "/anna/p/hello"
        assert environment["__OW_ACTIVATION_ID"] == done.activation_id
        assert environment["__OW_API_KEY"] == "u:k"
        assert told["/run"]["value"] == {"x": 1, "y": 2}
        assert all(isinstance(value, str) for key, value in told["/run"].items() if key != "value")


async def test_encrypted_parameters_are_opened_for_the_action_alone(tmp_path: Path):
    told: dict[str, Any] = {}

    async with site(tmp_path) as s:
        s.backend.action = lambda path, body: (told.update({path: body}), echo(path, body))[1]
        plain = (
            Parameter(key="SECRET", value=msgspec.Raw(b'"hush"'), init=True, encryption="aes-256"),
            Parameter(key="y", value=msgspec.Raw(b'{"deep": 2}'), encryption="aes-256"),
        )
        done = await s.run(action(parameters=VAULT.seal("anna", plain)))
        assert told["/init"]["value"]["env"]["SECRET"] == "hush"
        assert told["/run"]["value"] == {"x": 1, "y": {"deep": 2}}
        assert b"hush" not in msgspec.json.encode(msgspec.structs.replace(done, result=None))


async def test_parameters_of_another_key_are_the_platforms_failure_and_named(tmp_path: Path):
    async with site(tmp_path) as s:
        plain = (Parameter(key="y", value=msgspec.Raw(b"2"), encryption="aes-256"),)
        with pytest.raises(ParameterUnreadable, match="'y' cannot be opened"):
            await s.run(action(parameters=Vault(b"another key of 32 bytes in total").seal("anna", plain)))
        (done,) = s.finished
        assert (done.status, done.meter.outcome) == (Status.INTERNAL_ERROR, "parameter-unreadable")


async def test_action_that_may_not_have_the_key_does_not_get_it(tmp_path: Path):
    told: dict[str, Any] = {}

    async with site(tmp_path) as s:
        s.backend.action = lambda path, body: (told.update({path: body}), echo(path, body))[1]
        await s.run(action(annotations=(Annotation(key="provide-api-key", value=msgspec.Raw(b"false")),)))
        assert "__OW_API_KEY" not in told["/init"]["value"]["env"]
        assert "api_key" not in told["/run"]


@pytest.mark.parametrize(
    ("misbehaviour", "reason", "words"),
    [
        (Misbehaviour.CLOSE, "crashed", "exited unexpectedly"),
        (Misbehaviour.GARBAGE, "bad-response", "did not produce a valid JSON"),
        (Misbehaviour.DIE, "crashed", "exited unexpectedly"),
    ],
)
async def test_misbehaving_action_ends_as_the_developers_error_and_its_container_goes(
    tmp_path: Path, misbehaviour: Misbehaviour, reason: str, words: str
):
    async with site(tmp_path) as s:
        s.backend.action = lambda path, body: misbehaviour if path == "/run" else echo(path, body)
        done = await s.run()
        assert (done.status, done.meter.outcome) == (Status.DEVELOPER_ERROR, reason)
        assert words in error_of(done)
        s.backend.action = echo
        assert (await s.run()).meter.start_kind is StartKind.COLD


async def test_an_action_that_exhausts_its_memory_is_told_so_though_its_counters_went_with_it(tmp_path: Path):
    async with site(tmp_path) as s:

        def exhaust(path: str, body: Any) -> Answer | Misbehaviour:
            if path != "/run":
                return echo(path, body)
            for container in s.backend.containers.values():
                container.oom_count = 1
            return Misbehaviour.DIE

        s.backend.action = exhaust
        done = await s.run()
        assert (done.status, done.meter.outcome) == (Status.DEVELOPER_ERROR, "oom")
        assert "exhausted its memory" in error_of(done)


async def test_an_action_that_fell_to_the_memory_of_all_is_not_blamed(tmp_path: Path):
    async with site(tmp_path) as s:

        def fall(path: str, body: Any) -> Answer | Misbehaviour:
            if path != "/run":
                return echo(path, body)
            s.pool.overflowed()
            for container in s.backend.containers.values():
                container.oom_count = 1
            return Misbehaviour.DIE

        s.backend.action = fall
        done = await s.run()
        assert (done.status, done.meter.outcome) == (Status.INTERNAL_ERROR, "node-out-of-memory")
        assert "within its own limit of 256 MB" in error_of(done)


async def test_time_limit_ends_it_and_says_so(tmp_path: Path):
    async with site(tmp_path) as s:
        s.backend.action = lambda path, body: Misbehaviour.HANG if path == "/run" else echo(path, body)
        done = await s.run(action(limits=Limits(timeout=100)))
        assert done.timed_out
        assert done.meter.billed_us >= 100_000
        assert "exceeded its time limits of 100 milliseconds." in error_of(done)


@pytest.mark.parametrize("way", ["long", "short"])
async def test_each_request_may_take_as_long_as_the_limit_says_and_the_action_is_told_so(tmp_path: Path, monkeypatch, way: str):
    """Seen at the connection, whatever time this machine takes: a factor of two would show."""
    left_s: list[tuple[bytes, float]] = []
    told_s: list[float] = []
    send_for = Connection.send_for

    def watch(self: Connection, answer: Any, path: bytes, body: bytes, *, limit: int, deadline: float) -> None:
        left_s.append((path, deadline - asyncio.get_running_loop().time()))
        told_s.append(float(msgspec.json.decode(body).get("deadline", 0)) / 1000 - time.time())
        send_for(self, answer, path, body, limit=limit, deadline=deadline)

    monkeypatch.setattr(Connection, "send_for", watch)
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        await s.run(action(limits=Limits(timeout=9_000)))
        assert [path for path, _ in left_s] == [b"/init", b"/run"]
        if way == "short":
            await go_short(s, time.monotonic(), limits=Limits(timeout=9_000))
            assert [path for path, _ in left_s] == [b"/init", b"/run", b"/run"]
    assert all(0.5 < seconds <= 9.0 for _, seconds in left_s)
    assert all(0.5 < seconds <= 9.0 for seconds in told_s[1:])


async def test_result_over_the_limit_keeps_the_container(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        s.backend.action = lambda path, body: Answer(body=b'{"x":"' + b"y" * 3000 + b'"}') if path == "/run" else echo(path, body)
        done = await s.run()
        assert (done.status, done.size) == (Status.APPLICATION_ERROR, 3008)
        s.backend.action = echo
        assert (await s.run()).meter.start_kind is StartKind.WARM


async def test_platform_fault_is_recorded_and_raised_with_the_activations_id(tmp_path: Path):
    async with site(tmp_path) as s:
        s.backend.fail_next("create", EngineUnavailable("gone fishing"))
        with pytest.raises(EngineUnavailable) as caught:
            await s.run()
        assert caught.value.activation_id == s.finished[0].activation_id
        assert s.finished[0].status is Status.INTERNAL_ERROR


async def test_image_that_cannot_be_had_is_the_developers_error(tmp_path: Path):
    async with site(tmp_path) as s:
        s.backend.fail_next("resolve_image", ImageNotFound("no such image"))
        done = await s.run(action(exec=Exec(kind="blackbox", image="example/none:1")))
        assert done.status is Status.DEVELOPER_ERROR
        assert "pull container image 'example/none:1'" in error_of(done)


async def test_call_that_takes_longer_than_the_caller_waits_goes_on(tmp_path: Path):
    async with site(tmp_path) as s:
        s.backend.action = lambda path, body: Answer(after_s=0.2) if path == "/run" else echo(path, body)
        early = await s.invoker.invoke(s.call(wait_s=0.05))
        assert isinstance(early, Accepted202)
        await s.invoker.wait_idle()
        assert [each.activation_id for each in s.finished] == [early.activation_id]


async def test_caller_that_goes_away_changes_nothing(tmp_path: Path):
    async with site(tmp_path) as s:
        running = asyncio.Event()

        def slow(path: str, body: Any) -> Answer:
            if path == "/run":
                running.set()
                return Answer(after_s=0.1)
            return echo(path, body)

        s.backend.action = slow
        async with asyncio.TaskGroup() as callers:
            caller = callers.create_task(s.run())
            await running.wait()
            caller.cancel()
        await s.invoker.wait_idle()
        assert [each.status for each in s.finished] == [Status.SUCCESS]


async def test_cancelled_while_it_runs_is_killed_and_billed_and_cancelled_in_the_queue_never_runs(tmp_path: Path):
    async with site(tmp_path, memory_mib=256) as s:
        running = asyncio.Event()

        def slow(path: str, body: Any) -> Answer:
            if path == "/run":
                running.set()
                return Answer(after_s=30.0)
            return echo(path, body)

        s.backend.action = slow
        first = await s.invoker.invoke(s.call(blocking=False))
        await running.wait()
        second = await s.invoker.invoke(s.call(action("other"), blocking=False))
        assert isinstance(first, Accepted202)
        assert isinstance(second, Accepted202)
        await asyncio.sleep(0)
        assert s.invoker.cancel(first.activation_id, namespace="mallory") is None
        assert s.invoker.cancel(second.activation_id) == "queued"
        await s.invoker.wait_recorded(second.activation_id)
        assert [each.activation_id for each in s.finished] == [second.activation_id]
        assert s.invoker.cancel(first.activation_id, namespace="anna") == "running"
        await s.invoker.wait_idle()
        by_id = {each.activation_id: each for each in s.finished}
        assert {each.meter.outcome for each in by_id.values()} == {"cancelled"}
        assert by_id[second.activation_id].meter.billed_us == 0
        assert by_id[first.activation_id].meter.billed_us > 0
        assert s.invoker.cancel(first.activation_id) is None


@pytest.mark.parametrize("fails", [False, True])
async def test_what_is_being_promised_can_be_cancelled_already_and_never_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
):
    """Who asks with the same idempotency key knows its id before the disk has the promise."""
    async with site(tmp_path) as s:
        accepted, on_disk = s.recorder.accepted, asyncio.Event()

        async def slowly(promise: Accepted) -> None:
            await on_disk.wait()
            if fails:
                raise JournalFull
            await accepted(promise)

        async def cancel() -> str | None:
            await until(lambda: s.invoker.in_flight("anna") == 1)
            (name,) = s.invoker.ids_in_flight()
            was = s.invoker.cancel(name)
            asyncio.get_running_loop().call_soon(on_disk.set)
            await s.invoker.wait_recorded(name)
            return was

        monkeypatch.setattr(s.recorder, "accepted", slowly)
        call, was = await asyncio.gather(s.invoker.invoke(s.call(blocking=False)), cancel(), return_exceptions=True)
        assert type(call) is (JournalFull if fails else Accepted202)
        assert was == "queued"
        await s.invoker.wait_idle()
        assert [each.meter.outcome for each in s.finished] == ([] if fails else ["cancelled"])
        assert s.backend.calls["create"] == 0


async def test_idempotency_key_returns_the_first_activation_and_refuses_another_body(tmp_path: Path):
    async with site(tmp_path) as s:
        both = await asyncio.gather(s.run(idempotency_key="k"), s.run(idempotency_key="k"))
        assert both[0].activation_id == both[1].activation_id
        again = await s.run(idempotency_key="k")
        assert again.activation_id == both[0].activation_id
        with pytest.raises(IdempotencyConflict):
            await s.run(payload=b'{"x":2}', idempotency_key="k")
        assert (await s.run(action("other"), idempotency_key="k")).activation_id != again.activation_id


async def test_final_parameter_is_refused_before_anything_begins(tmp_path: Path):
    async with site(tmp_path) as s:
        final = action(
            parameters=(Parameter(key="x", value=msgspec.Raw(b"0")),),
            annotations=(Annotation(key="final", value=msgspec.Raw(b"true")),),
        )
        with pytest.raises(ParametersNotAllowed):
            await s.run(final)
        assert s.finished == []


async def test_container_that_would_not_thaw_is_replaced_and_the_call_runs_once(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=0.0) as s:
        runs: list[str] = []
        s.backend.action = lambda path, body: (runs.append(path), echo(path, body))[1]
        await s.run()
        (container,) = s.backend.containers.values()
        async with asyncio.timeout(30):
            while not container.frozen:
                await asyncio.sleep(0)
        with pytest.MonkeyPatch.context() as patch:

            def refuse(_self: object) -> None:
                patch.undo()
                raise PermissionError(1, "Operation not permitted")

            patch.setattr(type(container), "thaw", refuse)
            done = await s.run()
        assert done.meter.start_kind is StartKind.COLD
        assert runs.count("/run") == 2


async def test_what_a_container_took_that_would_not_thaw_is_in_no_phase_of_the_next_one(tmp_path: Path):
    async with site(tmp_path, freeze_grace_s=0.0) as s:
        await s.run()
        (container,) = s.backend.containers.values()
        await until(lambda: container.frozen)
        s.backend.delay["create"] = 0.05
        s.backend.action = lambda path, body: Answer(status=502, body=b'{"error":"no"}') if path == "/init" else echo(path, body)
        with pytest.MonkeyPatch.context() as patch:

            def refuse(_self: object) -> None:
                patch.undo()
                raise PermissionError(1, "Operation not permitted")

            patch.setattr(type(container), "thaw", refuse)
            began = time.monotonic()
            done = await s.run(received=began)
            took_us = (time.monotonic() - began) * 1e6
        assert done.meter.outcome == "init-failed"
        assert done.meter.phases.create >= 50_000
        assert done.meter.phases.total <= took_us + 10
        assert done.meter.billed_us <= took_us - 50_000, "it is billed for the creation"


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0])
@pytest.mark.parametrize("way", ["long", "short"])
async def test_a_wall_clock_that_is_set_during_a_call_changes_no_duration_and_no_bill(tmp_path: Path, step_s: float, way: str):
    real, real_ns, stepped = time.time, time.time_ns, 0.0

    def step(path: str, body: Any) -> Answer:
        nonlocal stepped
        stepped += step_s if path == "/run" else 0.0
        return echo(path, body)

    with pytest.MonkeyPatch.context() as clock:
        clock.setattr(time, "time", lambda: real() + stepped)
        clock.setattr(time, "time_ns", lambda: real_ns() + int(stepped * 1e9))
        async with site(tmp_path, freeze_grace_s=10.0) as s:
            s.backend.action = step
            for start in (StartKind.COLD, StartKind.WARM):
                arrived_ms, began = int(time.time() * 1000), time.monotonic()
                if way == "long":
                    done = await s.run(received=began)
                else:
                    done = await go_short(s, began) if start is StartKind.WARM else await s.run(received=began)
                took_us = (time.monotonic() - began) * 1e6
                assert done.meter.start_kind is start
                assert 0 <= done.meter.billed_us <= done.meter.phases.total <= took_us + 10
                assert 0 <= done.wait_ms <= took_us / 1000 + 1
                assert done.end_ms - done.start_ms == round(done.meter.billed_us / 1000)
                assert 0 <= done.start_ms - arrived_ms <= took_us / 1000 + 1, "the label is of its arrival"
    assert stepped == 2 * step_s


async def go_short(s: Site, received: float, limits: Limits = Limits(timeout=1000)) -> Activation:  # noqa: B008 - frozen
    """Run a call on the short way."""
    call = s.call(action(limits=limits), received=received)
    found = s.invoker.find_short(call.identity, call.action, call.payload, call.wait_s)
    assert found is not None
    ended: list[Ticket] = []
    s.invoker.start_short(call, found, ended.append)
    await until(lambda: bool(ended))
    (ticket,) = ended
    assert ticket.done is not None
    return ticket.done


@pytest.mark.parametrize("times", [1, 3])
async def test_a_warm_container_that_cannot_be_reached_costs_another_one_and_no_call(tmp_path: Path, times: int):
    """Nothing was sent to it, so the call may go elsewhere; not for ever."""
    async with site(tmp_path, freeze_grace_s=10.0) as s:
        s.backend.images["python"] = Image(image_id="sha256:1", logs=LogTransport.PIPE, server_keep_alive_s=0.0)
        runs: list[str] = []
        s.backend.action = lambda path, body: (runs.append(path), Answer(after_s=0.05 if path == "/run" else 0.0))[1]
        reference = s.planner.reference_of(action())
        s.backend.images[reference] = s.backend.images["python"]
        await asyncio.gather(*(s.run() for _ in range(3)))
        warm, done = set(s.backend.containers), len(runs)
        assert len(warm) == 3
        s.backend.fail_next("dial", OSError(101, "Network is unreachable"), times=times)
        if times == 1:
            assert (await s.run()).meter.start_kind is StartKind.WARM
            assert len(runs) == done + 1
        else:
            with pytest.raises(ContainerUnreachable):
                await s.run()
            assert len(runs) == done
        async with asyncio.timeout(30):
            while len(warm & set(s.backend.containers)) != 3 - times:
                await asyncio.sleep(0)


async def test_a_call_for_which_no_container_thaws_ends_as_docs_errors_says(tmp_path: Path):
    """The row `thaw-failed` of docs/errors.md, which no healthy kernel gives."""
    table = Path(__file__).parents[2] / "docs/errors.md"
    (row,) = [line.split("|") for line in table.read_text().splitlines() if line.startswith("| thaw-failed |")]
    status, sentence, reason = int(row[3]), row[4].strip().strip("`"), row[5].strip()
    async with site(tmp_path, freeze_grace_s=0.0) as s:
        runs: list[str] = []
        s.backend.action = lambda path, body: (runs.append(path), Answer(after_s=0.05 if path == "/run" else 0.0))[1]
        await asyncio.gather(*(s.run() for _ in range(3)))
        containers = list(s.backend.containers.values())
        assert len(containers) == 3
        async with asyncio.timeout(30):
            while not all(container.frozen for container in containers):
                await asyncio.sleep(0)
        done = len(runs)

        def refuse(_self: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(containers[0]), "thaw", refuse)
            with pytest.raises(ThawFailed) as caught:
                await s.run()
        reply = Reply.of_error(caught.value, "tid")
        assert (reply.status, reply.headers["X-Invokerd-Reason"], reply.headers["Retry-After"]) == (status, reason, "1")
        assert sentence in str(caught.value)
        assert len(runs) == done, "something has run"
        assert (s.finished[-1].activation_id, s.finished[-1].meter.outcome) == (caught.value.activation_id, reason)
        async with asyncio.timeout(30):
            while s.backend.containers:
                await asyncio.sleep(0)
        assert (await s.run()).status is Status.SUCCESS


async def test_drain_refuses_new_calls_and_lets_running_ones_end(tmp_path: Path):
    async with site(tmp_path) as s:
        s.backend.action = lambda path, body: Answer(after_s=0.1) if path == "/run" else echo(path, body)
        running = await s.invoker.invoke(s.call(wait_s=0.03))
        assert isinstance(running, Accepted202)
        s.invoker.refuse()
        with pytest.raises(PoolClosed):
            await s.run()
        await s.invoker.wait_idle()
        assert s.finished[0].status is Status.SUCCESS


async def test_lost_activations_are_recorded_once_and_what_had_not_begun_is_run(tmp_path: Path):
    async with site(tmp_path) as s:
        facts = Facts(
            namespace="anna", path="anna/hello", version="0.0.1", kind="python:3", timeout=1, memory=256, logs=1, concurrency=1
        )
        lost = ActivationId("a" * 32)
        assert await s.invoker.record_lost([Lost(activation_id=lost, facts=facts, start_ms=int(time.time() * 1000))]) == 1
        assert s.finished[0].meter.outcome == "lost"
        accepted = Accepted(
            activation_id=ActivationId("b" * 32),
            namespace="anna",
            subject="anna",
            path="anna/hello",
            payload=msgspec.Raw(b"{}"),
            transaction="t",
            accepted_ms=int(time.time() * 1000),
        )
        s.invoker.resume(accepted, s.call(blocking=False, payload=b"{}"))
        await s.invoker.wait_idle()
        assert s.finished[1].activation_id == accepted.activation_id
        assert s.finished[1].status is Status.SUCCESS


@pytest.mark.parametrize("changes", [{"blocking": False}, {"idempotency_key": "once"}], ids=["not waited for", "idempotent"])
async def test_what_is_promised_is_written_sealed_for_clients_give_keys_to_feeds(tmp_path: Path, changes: dict[str, Any]):
    key = b"uuid-of-a-user:key-of-a-user"
    async with site(tmp_path) as s:
        await s.invoker.invoke(s.call(payload=b'{"lifecycleEvent":"CREATE","authKey":"' + key + b'"}', **changes))
        written = b"".join(path.read_bytes() for path in (tmp_path / "journal").iterdir())
        assert b'"accepted"' in written
        ends = [bytes(each.result or b"") for each in s.finished]
        assert written.count(key) == sum(end.count(key) for end in ends), "it is in the echo that the action answered with alone"
        await s.invoker.wait_idle()


async def test_a_namespace_that_stores_nothing_is_answered_and_billed_and_has_no_record(tmp_path: Path):
    async with site(tmp_path) as s:
        unstored = msgspec.structs.replace(ANNA, name="bob", limits=LimitOverrides(store_activations=False))
        identity = Identity(namespace=unstored, api_key="u:k")
        done = await s.run(identity=identity)
        accepted = await s.invoker.invoke(s.call(identity=identity, blocking=False))
        await s.invoker.wait_idle()
        assert bytes(done.result or b"") == b'{"x":1}'
        for each in (done.activation_id, accepted.activation_id):
            assert await s.recorder.records.get("bob", each) is None
            assert await s.recorder.records.get_logs("bob", each) is None
        assert await s.recorder.records.count("bob", skip=0) == 0
        (row,) = await s.recorder.records.usage(namespace="bob", since_ms=0, upto_ms=2**53)
        assert (row.charged_activations, row.billed_us > 0) == (2, True)
        s.finished.clear()
    recorder = await Recorder.open(tmp_path, node="n")
    try:
        assert (recorder.recovery.unbegun, recorder.recovery.begun) == ([], [])
    finally:
        await recorder.close()


# ---- calls that are promised together


async def test_calls_promised_together_run_once_the_promise_is_durable(tmp_path: Path):
    async with site(tmp_path) as s:
        calls = [(s.invoker.new_id(), s.call(blocking=False)) for _ in range(3)]
        promised: list[Accepted] = []

        async def promise(accepted: Any) -> None:
            promised.extend(accepted)
            assert s.invoker.in_flight("anna") == 3
            for each in accepted:
                await s.recorder.accepted(each)
            assert s.finished == []

        await s.invoker.run_promised(calls, promise)
        await s.invoker.wait_idle()
        assert [each.activation_id for each in promised] == [activation_id for activation_id, _ in calls]
        assert {each.activation_id for each in s.finished} == {activation_id for activation_id, _ in calls}


async def test_a_call_is_accepted_and_runs_only_once_its_promise_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with site(tmp_path) as s:
        accepted, on_disk = s.recorder.accepted, asyncio.Event()

        async def slowly(promise: Accepted) -> None:
            await on_disk.wait()
            await accepted(promise)

        monkeypatch.setattr(s.recorder, "accepted", slowly)
        async with asyncio.TaskGroup() as group:
            call = group.create_task(s.invoker.invoke(s.call(blocking=False)))
            await until(lambda: s.invoker.in_flight("anna") == 1)
            for _ in range(100):
                await asyncio.sleep(0)
            assert not call.done()
            assert s.backend.calls["create"] == 0
            on_disk.set()
        assert isinstance(call.result(), Accepted202)
        await s.invoker.wait_idle()
        (done,) = s.finished
        assert done.activation_id == call.result().activation_id


async def test_that_a_promised_call_has_begun_is_on_the_disk_before_the_action_hears_of_it(tmp_path: Path, monkeypatch):
    """After a reboot the table of the containers says nothing: without this it would be run again."""
    begun, known_at = [], []
    async with site(tmp_path) as s:
        note_begun = s.recorder.begun

        async def note(activation_id: ActivationId) -> None:
            await note_begun(activation_id)
            begun.append(activation_id)

        monkeypatch.setattr(s.recorder, "begun", note)
        s.backend.action = lambda path, body: (known_at.append((path, list(begun))), echo(path, body))[1]
        accepted = await s.invoker.invoke(s.call(blocking=False))
        await s.invoker.wait_idle()
        assert known_at == [("/init", [accepted.activation_id]), ("/run", [accepted.activation_id])]


async def test_calls_whose_promise_fails_do_not_run(tmp_path: Path):
    async with site(tmp_path) as s:

        async def promise(_accepted: Any) -> None:
            raise JournalFull

        with pytest.raises(JournalFull):
            await s.invoker.run_promised([(s.invoker.new_id(), s.call(blocking=False))], promise)
        assert (s.invoker.in_flight("anna"), s.invoker.total_in_flight) == (0, 0)
        s.invoker.refuse()
        with pytest.raises(PoolClosed):
            await s.invoker.run_promised([(s.invoker.new_id(), s.call(blocking=False))], promise)
        assert s.finished == []
