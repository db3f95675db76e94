from pathlib import Path

from invoker.activation import Phases, Status
from metrics.catalogue import BOUNDS_US, BY_NAME, CATALOGUE, PHASES, PREFIX, STATUSES, Kind, as_markdown


def test_every_name_bears_the_prefix_and_is_there_once():
    assert all(metric.name.startswith(PREFIX) for metric in CATALOGUE)
    assert len(BY_NAME) == len(CATALOGUE) > 30


def test_total_stands_on_counters_and_on_nothing_else():
    assert [m.name for m in CATALOGUE if m.name.endswith("_total") != (m.kind is Kind.COUNTER)] == []


def test_a_unit_is_the_end_of_its_name():
    assert [m.name for m in CATALOGUE if not m.family.endswith(m.unit)] == []
    assert [m.name for m in CATALOGUE if m.family.endswith(("_seconds", "_bytes")) and not m.unit] == []


def test_no_label_could_hold_an_activation_a_container_or_a_user():
    labels = {label for metric in CATALOGUE for label in metric.labels}
    assert labels.isdisjoint({"activation", "activation_id", "container", "container_id", "uid", "user", "le"})


def test_bounds_rise_from_100_us_to_300_s():
    assert list(BOUNDS_US) == sorted(set(BOUNDS_US))
    assert (BOUNDS_US[0], BOUNDS_US[-1]) == (100, 300_000_000)


def test_phases_are_those_of_the_record_in_its_order():
    """`msgspec.structs.astuple(phases)` is what the observer is given."""
    assert Phases.__struct_fields__ == PHASES


def test_statuses_are_those_of_the_record_by_number():
    assert [STATUSES[status].replace("_", " ") for status in Status] == [
        status.text.removeprefix("action ").replace("whisk ", "") for status in Status
    ]


def test_documentation_has_the_table_of_the_catalogue():
    page = Path(__file__, "../../../docs/metrics.md").resolve().read_text(encoding="utf-8")
    assert as_markdown() in page
