"""Rating: the vendors' own examples, and sums that add up to the last digit."""

from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from invoker.activation import Activation, Meter, Phases, Status
from invoker.model import Limits
from invoker.record.ledger import Rounding
from invoker.record.rating import BadPrices, Prices, Quantities, add, bill, charge, plain, price, rate, rate_activation
from invoker.record.recorder import Recorder

VENDORS = """
[[plan]]
id = "aws-2018"
version = "1"
currency = "USD"
valid_from = 2018-01-01T00:00:00Z
valid_to = 2019-01-01T00:00:00Z
memory_gib_s = "0.00001667"
invocation = "0.0000002"
free = { memory_gib_s = 400000, invocations = 1000000 }

[[plan]]
id = "azure-consumption"
version = "1"
currency = "USD"
valid_from = 2019-01-01T00:00:00Z
valid_to = 2020-01-01T00:00:00Z
memory_gib_s = "0.000016"
invocation = "0.0000002"
minimum_ms = 100
free = { memory_gib_s = 400000, invocations = 1000000 }

[[plan]]
id = "ibm"
version = "1"
currency = "USD"
valid_from = 2020-01-01T00:00:00Z
memory_gib_s = "0.000017"
step_ms = 100
rounding = "half-up"
free = { memory_gib_s = 400000 }
"""
PLANS = {plan.plan_id: plan for plan in Prices.parse(VENDORS).plans}
OK = Status.SUCCESS


def plan_of(**changes):
    text = "".join(f"{key} = {value!r}\n".replace("True", "true").replace("False", "false") for key, value in changes.items())
    head = '[[plan]]\nid = "p"\nversion = "1"\ncurrency = "EUR"\nvalid_from = 2020-01-01T00:00:00Z\n'
    return Prices.parse(head + text).plans[0]


@given(
    st.lists(st.integers(0, 10**24), min_size=4, max_size=4), st.lists(st.decimals(0, 10**12, places=28), min_size=4, max_size=4)
)
def test_a_price_is_the_exact_product_whatever_the_prices(amounts, prices):
    names = ("invocation", "memory_gib_s", "cpu_s", "idle_gib_s")
    plan = plan_of(**{name: f"{each:f}" for name, each in zip(names, prices, strict=True)})
    per_unit = (1, 2**10 * 10**6, 10**6, 2**30 * 10**6)
    exact = sum(Fraction(each) * amount / unit for each, amount, unit in zip(prices, amounts, per_unit, strict=True))
    fields = ("invocations", "memory_mib_us", "cpu_us", "idle_byte_us")
    assert Fraction(price(Quantities(**dict(zip(fields, amounts, strict=True))), plan)) == exact


def times(quantities: Quantities, count: int) -> Quantities:
    return Quantities(**{name: value * count for name, value in msgspec.structs.asdict(quantities).items()})


@pytest.mark.parametrize(
    ("plan", "memory_mib", "runs", "run_ms", "expected"),
    [
        ("aws-2018", 512, 3_000_000, 1000, "18.74"),
        ("azure-consumption", 1536, 3_000_000, 1000, "66.00"),
        ("ibm", 256, 5_000_000, 500, "3.83"),
    ],
)
def test_the_examples_on_the_vendors_own_pages(plan, memory_mib, runs, run_ms, expected):
    one = charge(Meter(memory_limit_mib=memory_mib, billed_us=run_ms * 1000), OK, PLANS[plan].rounding)
    assert bill(times(one, runs), PLANS[plan]) == Decimal(expected)


def test_the_report_line_of_aws_rounds_init_and_run_together():
    meter = Meter(memory_limit_mib=1, billed_us=395_990 + 265_720, phases=Phases(init=265_720, run=395_990))
    assert charge(meter, OK, PLANS["aws-2018"].rounding).memory_mib_us == 662_000


@pytest.mark.parametrize(
    ("rounding", "measured_us", "billed_us"),
    [
        (Rounding(step_us=1000), 1001, 2000),
        (Rounding(step_us=1000), 1000, 1000),
        (Rounding(step_us=100_000), 1001, 100_000),
        (Rounding(step_us=1000, minimum_us=100_000), 1001, 100_000),
        (Rounding(step_us=1000, minimum_us=100_000), 0, 0),
        (Rounding(step_us=1), 1001, 1001),
    ],
)
def test_durations_are_rounded_up_as_the_plan_says(rounding, measured_us, billed_us):
    assert charge(Meter(memory_limit_mib=1, billed_us=measured_us), OK, rounding).memory_mib_us == billed_us


def test_init_is_billed_where_the_plan_bills_it():
    meter = Meter(memory_limit_mib=1, billed_us=5000, phases=Phases(init=3000, run=2000))
    assert charge(meter, OK, Rounding(bill_init=True)).memory_mib_us == 5000
    assert charge(meter, OK, Rounding(bill_init=False)).memory_mib_us == 2000


@pytest.mark.parametrize(
    ("status", "outcome", "billed_us", "charged"),
    [
        (Status.SUCCESS, "ok", 1000, 1),
        (Status.APPLICATION_ERROR, "application-error", 1000, 1),
        (Status.DEVELOPER_ERROR, "crashed", 1000, 1),
        (Status.DEVELOPER_ERROR, "timeout", 1000, 1),
        (Status.DEVELOPER_ERROR, "image-not-found", 0, 1),
        (Status.APPLICATION_ERROR, "cancelled", 1000, 1),
        (Status.APPLICATION_ERROR, "cancelled", 0, 0),
        (Status.INTERNAL_ERROR, "engine-error", 0, 0),
        (Status.INTERNAL_ERROR, "lost", 1000, 1),
    ],
)
def test_who_pays_for_which_end(status, outcome, billed_us, charged):
    quantities = charge(Meter(outcome=outcome, billed_us=billed_us, memory_limit_mib=1), status, Rounding())
    assert quantities.invocations == charged
    assert quantities.memory_mib_us == billed_us


def test_a_peak_of_memory_is_never_billed():
    plan = plan_of(memory_gib_s="1", cpu_s="1", invocation="1", idle_gib_s="1")
    meter = Meter(memory_limit_mib=256, billed_us=10_000, cpu_us=5)
    larger = msgspec.structs.replace(meter, peak_bytes=10**12, cache_bytes=10**12, shared_bytes=10**12)
    assert rate(meter, OK, plan) == rate(larger, OK, plan) > 0


def test_prices_are_exact():
    plan = plan_of(memory_gib_s="0.0000166667", cpu_s="0.00003", invocation="0.0000002", idle_gib_s="0.1")
    quantities = Quantities(invocations=3, memory_mib_us=1024 * 10**6, cpu_us=1, idle_byte_us=2**30 * 10**6)
    assert price(quantities, plan) == Decimal("0.0000006") + Decimal("0.0000166667") + Decimal("0.00000000003") + Decimal("0.1")


def test_one_billion_units_are_exact_to_the_last_digit():
    plan = plan_of(memory_gib_s="999999999999.0000000000000000000000000001")
    assert price(Quantities(memory_mib_us=10**18 + 1), plan) * 1024 * 10**6 == (10**18 + 1) * plan.memory_gib_s


METERS = st.builds(
    Meter,
    memory_limit_mib=st.integers(1, 2**20),
    billed_us=st.integers(0, 10**11),
    cpu_us=st.integers(0, 10**12),
    outcome=st.sampled_from(["ok", "cancelled", "timeout"]),
    phases=st.builds(Phases, init=st.integers(0, 10**10)),
)
ROWS = st.lists(st.tuples(METERS, st.sampled_from(Status)), max_size=20)
ROUNDINGS = st.builds(
    Rounding,
    step_us=st.sampled_from([1, 1000, 100_000]),
    minimum_us=st.sampled_from([0, 1000, 100_000]),
    bill_init=st.booleans(),
)


@given(rows=ROWS, rounding=ROUNDINGS)
def test_the_price_of_the_sum_is_the_sum_of_the_prices(rows, rounding):
    plan = plan_of(memory_gib_s="0.0000166667", cpu_s="0.0000123457", invocation="0.0000002")._replace(rounding=rounding)
    total = sum((charge(meter, status, rounding) for meter, status in rows), Quantities())
    assert price(total, plan) == add(rate(meter, status, plan) for meter, status in rows)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=ROWS, rounding=ROUNDINGS)
async def test_the_ledgers_sum_is_the_sum_of_its_rows(rows, rounding, tmp_path_factory):
    recorder = await Recorder.open(tmp_path_factory.mktemp("state"), node="n", segment_bytes=1 << 20)
    for number, (meter, status) in enumerate(rows):
        recorder.finish(
            Activation(
                activation_id=f"{number:032x}", node="n", namespace="g", subject="g", path="g/a", version="0.0.1", kind="k",
                limits=Limits(), start_ms=number, end_ms=number, status=status, meter=meter,
            ),
            logs=[],
        )  # fmt: skip
    found = await recorder.records.usage(since_ms=0, upto_ms=100, rounding=rounding)
    await recorder.close()
    expected = sum((charge(meter, status, rounding) for meter, status in rows), Quantities())
    assert sum((Quantities.of_usage(row) for row in found), Quantities()) == expected


# ---- plans


def test_a_call_is_rated_by_the_plan_valid_at_its_start():
    prices = Prices.parse(VENDORS)
    edge = prices.plans[1].valid_from_ms
    assert prices.at(edge - 1).plan_id == "aws-2018"
    assert prices.at(edge).plan_id == "azure-consumption"
    assert prices.at(0) is None
    assert [(plan.plan_id, begin, end) for plan, begin, end in prices.spans(edge - 5, edge + 5)] == [
        ("aws-2018", edge - 5, edge),
        ("azure-consumption", edge, edge + 5),
    ]


def test_the_plan_that_ships_rates_an_activation():
    activation = Activation(
        activation_id="a" * 32, node="n", namespace="g", subject="g", path="g/a", version="0.0.1", kind="k", limits=Limits(),
        start_ms=1_790_000_000_000, end_ms=1_790_000_000_000, status=OK, meter=Meter(memory_limit_mib=1024, billed_us=10**6),
    )  # fmt: skip
    assert rate_activation(activation, Prices.load()) == {"amount": "0.0000168667", "currency": "EUR", "plan": "default@1"}
    assert rate_activation(msgspec.structs.replace(activation, start_ms=0), Prices.load()) is None


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"0.00001667"', "0.00001667", "str"),
        ('"0.00001667"', '"cheap"', "decimal"),
        ('"0.00001667"', '"-1"', "between"),
        ('"0.00001667"', '"NaN"', "between"),
        ("2018-01-01T00:00:00Z", "2018-01-01T00:00:00", "zone"),
        ("2019-01-01T00:00:00Z\nmemory", "2019-06-01T00:00:00Z\nmemory", "overlap"),
        ("2018-01-01T00:00:00Z", "2020-01-01T00:00:00Z", "overlap|ends before"),
        ("step_ms = 100", "step_ms = 0", "step_ms"),
        ('"half-up"', '"up"', "half-even or half-up"),
        ("currency", "curency", "curency"),
        ('id = "ibm"', 'id = "aws-2018"', "same id"),
        ("[[plan]]", "[[plan", "price plans"),
    ],
)
def test_plans_that_cannot_be_are_refused_with_the_reason(old, new, why):
    assert old in VENDORS
    with pytest.raises(BadPrices, match=why):
        Prices.parse(VENDORS.replace(old, new, 1))


def test_a_missing_file_of_prices_is_named(tmp_path):
    with pytest.raises(BadPrices, match=r"none\.toml"):
        Prices.load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("amount", "text"), [("0", "0"), ("0.10", "0.1"), ("1E-10", "0.0000000001"), ("1E+3", "1000"), ("100", "100"), ("0.00", "0")]
)
def test_amounts_are_written_plainly(amount, text):
    assert plain(Decimal(amount)) == text
