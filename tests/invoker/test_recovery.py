"""What an earlier daemon left: what it had promised is run or ended, what ran is ended as lost, and nothing stops the start."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from activations import finished
from invoker_site import ANNA, VAULT, action, error_of, site

from invoker.activation import Accepted, Activation, Meter, Status
from invoker.cpu_window import CpuWindows
from invoker.http.auth import Authenticator
from invoker.model import Action, Exec, LimitOverrides
from invoker.plan import facts_of
from invoker.record.entities import EntityStore
from invoker.record.recorder import Recorder
from invoker.recovery import restore_cpu_windows, take_over
from invoker.vault import KEY_BYTES, Vault
from pool.model import ActivationId, ContainerId, ContainerSpec
from pool.table import ContainerTable

NOW = int(time.time() * 1000)


def accepted(name: str, path: str = "anna/hello", **changes: Any) -> Accepted:
    values: dict[str, Any] = {"namespace": "anna", "subject": "anna", "payload": msgspec.Raw(b'{"x":1}'), "transaction": "t"}
    return Accepted(activation_id=ActivationId(name * 32), path=path, accepted_ms=NOW, **(values | changes))


async def leave(tmp_path: Path, *promises: Accepted, begun: tuple[Accepted, ...] = ()) -> None:
    """Leave the journal of a daemon that was killed."""
    recorder = await Recorder.open(tmp_path, node="n")
    try:
        for each in promises:
            await recorder.accepted(each)
        for each in begun:
            recorder.note_begun(each)
    finally:
        await recorder.close()


@asynccontextmanager
async def next_daemon(tmp_path: Path, *actions: Action, namespace: Any = ANNA):
    """A site, and a function that has it take over."""
    entities = await EntityStore.open(tmp_path / "entities.db", tmp_path / "code")
    table = ContainerTable.open(tmp_path / "another.table", "boot")
    try:
        await entities.put_namespace(namespace)
        for each in actions:
            await entities.put(each, expected_revision=None)
        async with site(tmp_path) as s:

            async def settle() -> dict[str, Activation]:
                stores: Any = SimpleNamespace(entities=entities, recorder=s.recorder, table=table)
                await take_over(
                    stores,
                    backend=s.backend,
                    planner=s.planner,
                    pool=s.pool,
                    invoker=s.invoker,
                    authenticator=Authenticator(entities, b"p" * 32),
                    vault=VAULT,
                )
                await s.invoker.wait_idle()
                return {each.activation_id[0]: each for each in s.finished}

            yield SimpleNamespace(site=s, table=table, settle=settle, entities=entities)
    finally:
        table.close()
        await entities.close()


async def test_what_was_accepted_and_had_not_begun_is_run(tmp_path):
    await leave(tmp_path, accepted("a"))
    async with next_daemon(tmp_path, action()) as daemon:
        done = (await daemon.settle())["a"]
        assert (done.status, msgspec.json.decode(done.result)) == (Status.SUCCESS, {"x": 1})


async def test_what_a_trigger_promised_with_sealed_parameters_is_opened_for_the_run(tmp_path):
    sealed = VAULT.seal_payload("anna", msgspec.Raw(b'{"s":"hush"}'))
    await leave(tmp_path, accepted("a", payload=sealed))
    async with next_daemon(tmp_path, action()) as daemon:
        assert msgspec.json.decode((await daemon.settle())["a"].result) == {"s": "hush"}


async def test_what_was_sealed_with_another_key_is_ended_with_that_and_the_others_run(tmp_path):
    other = Vault(b"o" * KEY_BYTES).seal_payload("anna", msgspec.Raw(b'{"s":"hush"}'))
    await leave(tmp_path, accepted("a", payload=other), accepted("b"))
    async with next_daemon(tmp_path, action()) as daemon:
        done = await daemon.settle()
        assert (done["a"].status, done["a"].meter.outcome) == (Status.INTERNAL_ERROR, "parameter-unreadable")
        assert "another key" in error_of(done["a"])
        assert done["b"].status is Status.SUCCESS


async def test_what_was_accepted_of_an_action_that_is_gone_is_an_application_error(tmp_path):
    await leave(tmp_path, accepted("a", "anna/gone"), accepted("b"))
    async with next_daemon(tmp_path, action()) as daemon:
        done = await daemon.settle()
        assert (done["a"].status, done["a"].meter.outcome, done["a"].kind) == (
            Status.APPLICATION_ERROR,
            "action-gone",
            "unknown",
        )
        assert "may have been deleted" in error_of(done["a"])
        assert done["b"].status is Status.SUCCESS


async def test_what_the_table_knows_to_have_run_gets_its_cause_from_the_journal(tmp_path):
    await leave(tmp_path, begun=(accepted("s", "anna/s", composed=True),))
    recorder = await Recorder.open(tmp_path, node="n")
    recorder.part_begins(accepted("p", cause="s" * 32, transaction="of the part"))
    await recorder.close()
    whole = action("s", exec=Exec(kind="sequence", components=("anna/hello",)))
    async with next_daemon(tmp_path, action(), whole) as daemon:
        slot = daemon.table.claim(ContainerId("c"))
        slot.specialise("d" * 64, msgspec.json.encode(facts_of(ANNA, action())))
        slot.begin(ActivationId("p" * 32), NOW + 5)
        done = await daemon.settle()
        assert (done["p"].cause, done["p"].transaction, done["p"].start_ms) == ("s" * 32, "of the part", NOW + 5)
        assert (done["p"].path, done["p"].meter.outcome) == ("anna/hello", "lost")
        assert done["s"].composition.parts == ("p" * 32,)
        assert done["s"].kind == "sequence"


async def test_a_container_that_nobody_adopts_is_removed_before_the_daemon_serves(tmp_path):
    spec = ContainerSpec(namespace="anna", uid=1001, gid=1001, image="sha256:00", kind="python:3", memory_mib=256)
    async with next_daemon(tmp_path, action()) as daemon:
        backend = daemon.site.backend
        for name in ("unknown", "busy"):
            (await backend.create(ContainerId(name), spec)).close()
        slot = daemon.table.claim(ContainerId("busy"))
        slot.specialise("d" * 64, msgspec.json.encode(facts_of(ANNA, action())))
        slot.begin(ActivationId("b" * 32), NOW)
        done = await daemon.settle()
        assert done["b"].meter.outcome == "lost"
        assert await backend.list_containers() == []
        assert list(daemon.table.entries()) == []


@pytest.mark.parametrize("stored", [True, None, False])
async def test_what_is_lost_is_recorded_where_records_are_kept(tmp_path, stored):
    await leave(tmp_path, begun=(accepted("a"),))
    namespace = msgspec.structs.replace(ANNA, limits=LimitOverrides(store_activations=stored))
    async with next_daemon(tmp_path, action(), namespace=namespace) as daemon:
        assert (await daemon.settle())["a"].meter.outcome == "lost"
        found = await daemon.site.recorder.records.get("anna", ActivationId("a" * 32))
        assert (found is not None) == (stored is not False)
        (row,) = await daemon.site.recorder.records.usage(since_ms=0, upto_ms=2**53)
        assert row.outcomes == {"lost": 1}
        if stored is False:
            daemon.site.finished.clear()  # the site counts the records


# --- CPU time that was used


@asynccontextmanager
async def after_use(tmp_path: Path, *uses: tuple[int, int, str], namespace: Any = ANNA):
    """Records and namespaces after a daemon whose activations ended so many seconds ago, with their CPU time."""
    recorder = await Recorder.open(tmp_path, node="n")
    try:
        for number, (age_s, cpu_us, name) in enumerate(uses):
            end_ms = int(time.time() * 1000) - age_s * 1000
            used = {"start_ms": end_ms - 50, "end_ms": end_ms, "meter": Meter(cpu_us=cpu_us)}
            activation = finished({}, activation_id=ActivationId(f"{number:032x}"), namespace=name, path=f"{name}/a", **used)
            recorder.finish(activation, logs=[])
        recorder.tail(ActivationId("0" * 32), "anna", 7)
    finally:
        await recorder.close()
    recorder = await Recorder.open(tmp_path, node="n")
    entities = await EntityStore.open(tmp_path / "entities.db", tmp_path / "code")
    try:
        await entities.put_namespace(namespace)
        yield recorder.records, entities
    finally:
        await entities.close()
        await recorder.close()


async def restored(records: Any, entities: EntityStore, length_s: int = 3600) -> CpuWindows:
    windows = CpuWindows(length_s)
    await restore_cpu_windows(windows, records, namespaces=entities, longest_ms=3_600_000)
    return windows


async def test_the_windows_begin_with_what_was_used_of_them_before(tmp_path):
    async with after_use(tmp_path, (3, 1000, "anna"), (200, 20_000, "anna"), (4000, 300_000, "anna"), (0, 40, "nobody")) as left:
        assert (await restored(*left)).all_used_us() == {"anna": 21_007}
        assert (await restored(*left, 120)).used_us("anna") == 1007


async def test_what_is_counted_while_the_ledger_is_read_counts_beside_it(tmp_path):
    async with after_use(tmp_path, (3, 1000, "anna")) as (records, entities):
        windows = CpuWindows(3600)
        windows.add("anna", 20_000, int(time.time() * 1000))
        await restore_cpu_windows(windows, records, namespaces=entities, longest_ms=3_600_000)
        assert windows.used_us("anna") == 21_007


async def test_a_namespace_that_was_made_anew_has_not_used_what_the_one_before_it_did(tmp_path):
    anew = msgspec.structs.replace(ANNA, created_ms=int(time.time() * 1000) - 600_000)
    async with after_use(tmp_path, (2000, 1000, "anna"), (3, 20_000, "anna"), namespace=anew) as left:
        assert (await restored(*left)).used_us("anna") == 20_007


async def test_a_ledger_that_cannot_be_read_counts_nothing_and_is_told_of(tmp_path, caplog):
    async with after_use(tmp_path, (3, 1000, "anna")) as (records, entities):
        (tmp_path / "elsewhere").mkdir()
        for month in (tmp_path / "ledger").glob("*.db"):
            (tmp_path / "elsewhere" / month.name).write_bytes(b"no database" * 1000)
        records._ledger = tmp_path / "elsewhere"
        assert (await restored(records, entities)).all_used_us() == {}
    assert "what was used of the CPU before cannot be read" in caplog.text
