"""From records to table and bill: exact money, disjoint columns, dashes where a record is silent."""

from decimal import Decimal

import pytest
from openwhisk import Call, _record
from report import Metering, as_json, as_milliseconds, as_money, groups, print_table, total_cost
from rich.console import Console


def call(**annotations: object) -> Call:
    notes = [{"key": key, "value": value} for key, value in annotations.items()]
    return Call(record={"name": "x", "duration": 12, "annotations": notes}, wall_us=1000)


NAMES = ("authenticate", "authorise", "resolve", "queue", "pull", "create", "thaw", "init", "run", "collect")
PHASES = {name: 2**place for place, name in enumerate(NAMES)}


def test_every_phase_is_in_exactly_one_column():
    metering = Metering.of(call(phases=PHASES, startKind="cold"))
    assert metering.wait_us == PHASES["queue"] + PHASES["pull"] + PHASES["create"]
    assert (metering.init_us, metering.run_us) == (PHASES["init"], PHASES["run"])
    assert metering.wait_us + metering.init_us + metering.run_us + metering.overhead_us == sum(PHASES.values())


def test_record_of_another_openwhisk_is_read_too():
    metering = Metering.of(call(waitTime=3, initTime=5))
    assert (metering.start_kind, metering.wait_us, metering.init_us, metering.run_us) == ("cold", 3000, 5000, 7000)
    assert (metering.overhead_us, metering.cpu_us, metering.peak_bytes, metering.cost) == (None, None, None, None)
    assert Metering.of(call(waitTime=3)).start_kind == "warm"


@pytest.mark.parametrize("cpu", [250, {"us": 250, "quality": "exact"}, {"microseconds": 250}])
def test_cpu_time_is_a_number_or_an_object(cpu):
    assert Metering.of(call(cpuTime=cpu)).cpu_us == 250


@pytest.mark.parametrize(
    ("cost", "amount"),
    [
        ({"amount": "0.1", "currency": "EUR"}, Decimal("0.1")),
        ({"amount": Decimal("1E-10")}, Decimal("1E-10")),
        ("0.30", Decimal("0.30")),
        (3, Decimal(3)),
        ({"amount": 0.1}, None),
        ({"amount": "much"}, None),
        (None, None),
    ],
)
def test_amounts_are_decimals_and_never_floats(cost, amount):
    assert Metering.of(call(cost=cost)).cost == amount


def test_costs_written_as_numbers_stay_exact_from_the_wire_to_the_sum():
    cost = '{"key": "cost", "value": {"amount": 0.1}}'
    text = f'{{"activationId": "1", "name": "x", "response": {{"result": {{"x": 0.5}}}}, "annotations": [{cost}]}}'
    metered = [Metering.of(Call(record=_record(text), wall_us=1)) for _ in range(3)]
    assert total_cost(metered) == Decimal("0.3")
    assert isinstance(_record(text)["response"]["result"]["x"], float)


def test_a_sum_with_a_hole_is_refused_by_name():
    with pytest.raises(ValueError, match="an activation of x has no cost"):
        total_cost([Metering.of(call())])


def test_groups_keep_the_order_of_actions_and_sort_start_kinds():
    metered = [Metering.of(call(startKind=kind)) for kind in ("frozen", "warm", "cold", "warm")]
    assert [(action, kind, len(entries)) for action, kind, entries in groups(metered)] == [
        ("x", "cold", 1),
        ("x", "warm", 2),
        ("x", "frozen", 1),
    ]


def test_rows_have_medians_the_greatest_peak_and_the_sum_of_costs():
    metered = [
        Metering.of(call(startKind="warm", phases={"run": run}, memoryPeak={"bytes": run}, cost={"amount": "0.00000001"}))
        for run in (10, 30, 90)
    ]
    (row,) = as_json(metered)
    assert (row["calls"], row["run_us"], row["peak_bytes"], row["cost"]) == (3, 30, 90, "0.00000003")


@pytest.mark.parametrize(("us", "text"), [(None, "-"), (0, "0.00"), (123, "0.12"), (12_345, "12.3"), (1_234_567, "1235")])
def test_milliseconds_have_three_digits(us, text):
    assert as_milliseconds(us) == text


@pytest.mark.parametrize(("amount", "text"), [("1E-10", "0.0000000001"), ("0.500", "0.5"), ("100", "100"), ("0", "0")])
def test_money_is_printed_in_plain_digits(amount, text):
    assert as_money(Decimal(amount)) == text


def test_table_shows_cost_in_millionths_and_explains_the_start_kinds_it_has(capsys):
    metered = [Metering.of(call(startKind="warm", cost={"amount": "0.0000204437", "currency": "EUR"}))]
    print_table(Console(width=200), metered)
    out = capsys.readouterr().out
    assert "cost µEUR" in out
    assert "20.444" in out
    assert "warm: one with the code runs." in out
    assert "frozen" not in out
