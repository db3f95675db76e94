"""The activation store: bounded by age and bytes, fair between namespaces."""

import msgspec
import pytest

from invoker.activation import Accepted, Activation, Status
from invoker.model import Limits
from invoker.record.activations import (
    IDEMPOTENCY_MS,
    ActivationDatabase,
    ActivationReader,
    Retention,
)
from invoker.record.rows import ActivationBatch, IdempotencyRow, PendingRow, RecordRow, TextRow
from invoker.record.store import load_queries

NOW_MS = 1_790_000_000_000
DAY_S = 86_400
HOUR_S = 3600


def an_activation(number: int, namespace: str = "guest", start_ms: int = NOW_MS) -> Activation:
    return Activation(
        activation_id=f"{number:032x}", node="n", namespace=namespace, subject="s", path="guest/pkg/a", version="0.0.1", kind="k",
        limits=Limits(), start_ms=start_ms, end_ms=start_ms, status=Status.SUCCESS,
    )  # fmt: skip


def a_batch(*activations: Activation, result: str = '{"a": 1}', lines: str = '["line"]') -> ActivationBatch:
    return ActivationBatch(
        records=[RecordRow.of(each) for each in activations],
        results=[TextRow(each.activation_id, each.namespace, each.start_ms, result) for each in activations],
        logs=[TextRow(each.activation_id, each.namespace, each.start_ms, lines) for each in activations],
    )


@pytest.fixture
def open_database(tmp_path):
    opened = []

    def open_(**retention):
        opened.append(ActivationDatabase(tmp_path / "a.db", Retention(**retention)))
        return opened[-1]

    yield open_
    for database in opened:
        database.close()


@pytest.fixture
async def reader(open_database, tmp_path):
    open_database()
    opened = await ActivationReader.open(tmp_path / "a.db")
    yield opened
    await opened.close()


async def listed(reader, namespace="guest"):
    return await reader.list(namespace, name=None, since_ms=None, upto_ms=None, limit=100, skip=0, hidden=())


async def test_results_come_back_byte_for_byte(open_database, reader):
    result = '{"text" : "ä\\u0000 \\ud83d\\ude00",  "n":1.0e5 }'
    open_database().apply(a_batch(an_activation(1), result=result), 1)
    found = await reader.get("guest", an_activation(1).activation_id)
    assert bytes(found.result) == result.encode()
    assert await listed(reader) == [found]


async def test_the_first_of_everything_stays(open_database, reader):
    database = open_database()
    database.apply(a_batch(an_activation(1)), 1)
    database.apply(a_batch(msgspec.structs.replace(an_activation(1), end_ms=0), result="2", lines='["other"]'), 2)
    found = await reader.get("guest", an_activation(1).activation_id)
    assert (found.end_ms, bytes(found.result)) == (NOW_MS, b'{"a": 1}')
    assert await reader.get_logs("guest", found.activation_id) == ["line"]
    assert database.position() == 2


async def test_records_results_and_logs_end_by_age_each_at_its_own(open_database, reader):
    database = open_database(records_s=3 * DAY_S, results_s=2 * DAY_S, logs_s=1 * DAY_S)
    database.apply(a_batch(an_activation(1)), 1)
    activation_id = an_activation(1).activation_id
    seen = []
    for days in (1, 2, 3):
        database.retain(NOW_MS + days * DAY_S * 1000)
        seen.append((len(await listed(reader)), await reader.get_logs("guest", activation_id)))
        database.retain(NOW_MS + days * DAY_S * 1000 + 1)
        found = await reader.get("guest", activation_id)
        seen.append((found and found.result and bytes(found.result), await reader.get_logs("guest", activation_id)))
    assert seen == [(1, ["line"]), (b'{"a": 1}', []), (1, []), (None, []), (1, []), (None, None)]


async def test_a_namespace_over_its_bytes_loses_its_oldest_and_nobody_elses(open_database, reader):
    database = open_database(results_bytes=2500, logs_bytes=3500)
    mine = [an_activation(number, start_ms=NOW_MS + number) for number in range(10)]
    others = [an_activation(100 + number, "other") for number in range(2)]
    database.apply(a_batch(*mine, *others, result='"' + "x" * 998 + '"', lines='["' + "x" * 996 + '"]'), 1)
    database.retain(NOW_MS)
    results = [each.result is not None for each in await listed(reader)]
    assert results == [True] * 2 + [False] * 8
    logs = [bool(await reader.get_logs("guest", each.activation_id)) for each in mine]
    assert logs == [False] * 7 + [True] * 3
    assert [each.result is not None for each in await listed(reader, "other")] == [True] * 2


async def test_deleted_bytes_are_given_back_to_the_disk(open_database, tmp_path):
    database = open_database(results_bytes=10_000)
    for number in range(50):
        database.apply(a_batch(an_activation(number), result='"' + "x" * 100_000 + '"'), number)
    database.checkpoint()
    before = (tmp_path / "a.db").stat().st_size
    database.retain(NOW_MS)
    database.checkpoint()
    assert (tmp_path / "a.db").stat().st_size < before / 3


def test_retention_goes_in_steps_and_says_that_there_is_more(open_database):
    database = open_database(records_s=1)
    database.apply(ActivationBatch(records=[RecordRow.of(an_activation(number)) for number in range(2500)]), 1)
    assert database.retain(NOW_MS + HOUR_S * 1000)
    assert not database.retain(NOW_MS + HOUR_S * 1000)


def test_a_promise_that_was_kept_is_not_made_again_by_a_replay(open_database):
    database = open_database()
    promise = Accepted(
        activation_id=an_activation(1).activation_id, namespace="g", subject="g", path="g/a", payload=msgspec.Raw(b"null"),
        transaction="t", accepted_ms=1,
    )  # fmt: skip
    made = ActivationBatch(pending=[PendingRow(promise.activation_id, promise, "{}")])
    database.apply(made, 1)
    assert [each.payload for each in database.read_pending()[0]] == [msgspec.Raw(b"{}")]
    kept = a_batch(an_activation(1))
    kept.kept.append(promise.activation_id)
    database.apply(kept, 2)
    database.apply(made, 1)
    assert database.read_pending() == ([], [])
    assert database.position() == 2


def test_an_idempotency_key_stands_for_its_first_activation_until_its_time_is_over(open_database):
    database = open_database()

    def key(activation_id: str, at_ms: int) -> ActivationBatch:
        return ActivationBatch(keys=[IdempotencyRow("g", "g/a", "k", activation_id, "sha", at_ms)])

    database.apply(key("first", NOW_MS), 1)
    database.apply(key("second", NOW_MS + IDEMPOTENCY_MS - 1), 2)
    assert [row.activation_id for row in database.read_idempotency(NOW_MS + 1)] == ["first"]
    database.apply(key("third", NOW_MS + IDEMPOTENCY_MS), 3)
    assert [row.activation_id for row in database.read_idempotency(NOW_MS + IDEMPOTENCY_MS)] == ["third"]
    database.retain(NOW_MS + 3 * IDEMPOTENCY_MS)
    assert database.read_idempotency(NOW_MS) == []


def test_a_trim_too_goes_in_steps_and_stops_where_the_bound_is(open_database):
    database = open_database(results_bytes=1_000)
    many = [an_activation(number, start_ms=NOW_MS + number) for number in range(2500)]
    database.apply(a_batch(*many[:100], result="1" * 10), 1)
    assert not database.retain(NOW_MS), "it has as much as it may"
    database.apply(a_batch(*many[100:], result="1" * 10), 2)
    assert database.retain(NOW_MS)
    asked: list[str] = []
    database._connection.set_trace_callback(asked.append)
    assert not database.retain(NOW_MS)
    assert not any(text.startswith("SELECT coalesce(sum") for text in asked), "the first step has summed it"
    rows = database._connection.execute("SELECT count(*), min(start_ms) FROM results").fetchone()
    assert rows == (100, NOW_MS + 2400), "the latest thousand bytes"


def test_sizes_are_summed_once_and_then_only_of_who_seems_to_have_too_much(open_database):
    """To sum a million rows each minute holds up commits; and what went for its age is noticed, not trimmed for."""
    database = open_database(results_s=DAY_S, results_bytes=1_000)
    asked = []
    database._connection.set_trace_callback(lambda text: asked.append(text.split("\n")[0]))
    database.apply(a_batch(an_activation(1), result="1" * 600), 1)
    database.retain(NOW_MS)
    assert sum("GROUP BY" in text for text in asked) == 3
    asked.clear()
    database.retain(NOW_MS)
    assert not any("sum(" in text for text in asked)
    database.retain(NOW_MS + 2 * DAY_S * 1000)
    database.apply(a_batch(an_activation(2, start_ms=NOW_MS + 2 * DAY_S * 1000), result="1" * 600), 2)
    asked.clear()
    database.retain(NOW_MS + 2 * DAY_S * 1000)
    assert sum("sum(bytes)" in text for text in asked) == 1, "it seems to have 1200 bytes, and has 600"
    assert database._connection.execute("SELECT count(*) FROM results").fetchone() == (1,)


@pytest.mark.parametrize("query", ["list", "list_of_action", "count", "count_of_action"])
def test_what_a_list_leaves_out_or_a_count_counts_is_not_read(open_database, query):
    """A record is a thousand bytes: to step over fifty thousand of them takes half a second, in the index a hundredth of it."""
    parameters = {"namespace": "g", "name": "a", "since_ms": 0, "upto_ms": 1, "limit": 1, "skip": 0, "hidden": "[]"}
    connection = open_database()._connection
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {load_queries('activations')[query]}", parameters)]
    steps = [step for step in plan if "namespace=?" in step]
    assert len(steps) == 1
    assert "USING COVERING INDEX" in steps[0], plan


async def test_hidden_records_are_neither_listed_nor_counted(open_database, reader):
    mine = [an_activation(number, start_ms=NOW_MS + number) for number in range(5)]
    open_database().apply(a_batch(*mine), 1)
    hidden = [mine[3].activation_id, "of-nobody"]
    for name in (None, mine[0].path.partition("/")[2]):
        shown = await reader.list("guest", name=name, since_ms=None, upto_ms=None, limit=2, skip=1, hidden=hidden)
        assert [each.activation_id for each in shown] == [mine[2].activation_id, mine[1].activation_id]
        assert await reader.count("guest", name=name, since_ms=None, upto_ms=None, hidden=hidden) == 4
