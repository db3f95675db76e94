"""Rating: what a meter row costs under a price plan. Pure functions of integers and decimals, never of a float.

Three steps, never mixed: `charge` makes quantities from facts by the plan's rules, and these add up as integers;
`price` makes money of quantities, exactly, because it only multiplies; `Plan.line` rounds once, on the line of a bill.
So the price of a sum is the sum of the prices, to the last digit.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal, Inexact, InvalidOperation
from pathlib import Path
from typing import Annotated, NamedTuple, Self

import msgspec

from invoker.activation import Activation, Meter, Status
from invoker.model import MIB
from invoker.record.ledger import Rounding, UsageRow
from pool.errors import InvokerError

DEFAULT_PRICES = Path(__file__).parent / "prices.toml"

#: Products of our integers and prices are finite decimals; should one ever not fit, that is an error, not a rounding.
_EXACT = Context(prec=200, traps=[Inexact, InvalidOperation])
_ROUNDINGS = {"half-even": ROUND_HALF_EVEN, "half-up": ROUND_HALF_UP}
#: Smallest quantities in one unit of its price; in the order of the fields of `Quantities`.
_PER_UNIT = (Decimal(1), Decimal(1024 * 1_000_000), Decimal(1_000_000), Decimal(1024 * MIB * 1_000_000))
_NOTHING = Decimal(0)


class BadPrices(InvokerError):
    """The price plans cannot be used."""

    code = "bad-prices"


class Quantities(msgspec.Struct, frozen=True, kw_only=True):
    """What is charged, before any price: integers that add up.

    Attributes:
        invocations: number of charged activations.
        memory_mib_us: declared memory times rounded duration, MiB-microseconds.
        cpu_us: CPU time, microseconds.
        idle_byte_us: memory of idle containers, byte-microseconds.
    """

    invocations: int = 0
    memory_mib_us: int = 0
    cpu_us: int = 0
    idle_byte_us: int = 0

    def __add__(self, other: Quantities) -> Quantities:
        return Quantities(
            invocations=self.invocations + other.invocations,
            memory_mib_us=self.memory_mib_us + other.memory_mib_us,
            cpu_us=self.cpu_us + other.cpu_us,
            idle_byte_us=self.idle_byte_us + other.idle_byte_us,
        )

    def __sub__(self, other: Quantities) -> Quantities:
        return Quantities(
            invocations=self.invocations - other.invocations,
            memory_mib_us=self.memory_mib_us - other.memory_mib_us,
            cpu_us=self.cpu_us - other.cpu_us,
            idle_byte_us=self.idle_byte_us - other.idle_byte_us,
        )

    @classmethod
    def of_usage(cls, row: UsageRow) -> Self:
        """Take over the sums of a row of `Recorder.usage`, made with the rounding of the plan that is to price them."""
        return cls(
            invocations=row.charged_activations,
            memory_mib_us=row.charged_memory_mib_us,
            cpu_us=row.charged_cpu_us,
            idle_byte_us=row.idle_byte_us,
        )


class _Free(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an account has free in a calendar month; taken off at the bill, never from a single call."""

    memory_gib_s: int = 0
    cpu_s: int = 0
    invocations: int = 0


class _PlanText(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan as it is written."""

    id: str
    version: str
    currency: str
    valid_from: datetime
    valid_to: datetime | None = None
    memory_gib_s: str = "0"
    cpu_s: str = "0"
    invocation: str = "0"
    idle_gib_s: str = "0"
    step_ms: Annotated[int, msgspec.Meta(ge=1)] = 1
    minimum_ms: Annotated[int, msgspec.Meta(ge=0)] = 0
    bill_init: bool = True
    places: Annotated[int, msgspec.Meta(ge=0, le=28)] = 2
    rounding: str = "half-even"
    free: _Free = _Free()


class _PricesText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file as it is written."""

    plan: tuple[_PlanText, ...]


class Plan(NamedTuple):
    """One version of a price plan. Immutable: a change is a new version.

    Attributes:
        plan_id, version: together unique for ever.
        currency: of all prices.
        valid_from_ms: first start that it rates, inclusive.
        valid_to_ms: end of its validity, exclusive; None is open.
        memory_gib_s, cpu_s, invocation, idle_gib_s: prices of one GiB-second, CPU-second, activation, idle GiB-second.
        rounding: of durations.
        places: decimal places of the line of a bill.
        line_rounding: of that line, a rounding of `decimal`.
        free: taken off the month's quantities of an account.
        scaled: what one each of the fields of `Quantities` costs, in units of 10^-`scale`: integers, exact.
    """

    plan_id: str
    version: str
    currency: str
    valid_from_ms: int
    valid_to_ms: int | None
    memory_gib_s: Decimal
    cpu_s: Decimal
    invocation: Decimal
    idle_gib_s: Decimal
    rounding: Rounding
    places: int
    line_rounding: str
    free: Quantities
    scaled: tuple[int, int, int, int]
    scale: int

    @property
    def name(self) -> str:
        """`id@version`."""
        return f"{self.plan_id}@{self.version}"

    def line(self, amount: Decimal) -> Decimal:
        """Round the amount of a line of a bill: the only rounding of money there is."""
        line = amount.quantize(Decimal(1).scaleb(-self.places), rounding=self.line_rounding, context=Context(prec=200))
        return line or line.copy_abs()  # nobody owes minus nothing


class Prices:
    """The plans of a site, without overlap."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        """Take the plans, in any order.

        Raises:
            BadPrices: two are valid at the same time, or have the same name.
        """
        self.plans = tuple(sorted(plans, key=lambda plan: plan.valid_from_ms))
        if len({plan.name for plan in plans}) != len(plans):
            raise BadPrices("two price plans have the same id and version")
        for plan, following in zip(self.plans, self.plans[1:], strict=False):
            if plan.valid_to_ms is None or plan.valid_to_ms > following.valid_from_ms:
                raise BadPrices(f"price plans {plan.name} and {following.name} overlap: end one where the next begins")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read plans from TOML.

        Raises:
            BadPrices: with what is wrong.
        """
        try:
            written = msgspec.convert(tomllib.loads(text), _PricesText)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise BadPrices(f"price plans: {error}") from error
        return cls([_plan(each) for each in written.plan])

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Read plans from a file; None is the plan that comes with invokerd.

        Raises:
            BadPrices: with what is wrong.
        """
        try:
            return cls.parse((path or DEFAULT_PRICES).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise BadPrices(f"price plans: {error}") from error

    def at(self, start_ms: int) -> Plan | None:
        """Find the plan that rates what starts at this time; None when there is none."""
        for plan in self.plans:
            if plan.valid_from_ms <= start_ms and (plan.valid_to_ms is None or start_ms < plan.valid_to_ms):
                return plan
        return None

    def spans(self, since_ms: int, upto_ms: int) -> list[tuple[Plan, int, int]]:
        """Cut `since_ms <= start < upto_ms` into the spans of single plans, for `Recorder.usage`. Gaps are left out."""
        cut = [
            (plan, max(since_ms, plan.valid_from_ms), upto_ms if plan.valid_to_ms is None else min(upto_ms, plan.valid_to_ms))
            for plan in self.plans
        ]
        return [(plan, begin, end) for plan, begin, end in cut if begin < end]

    def gaps(self, since_ms: int, upto_ms: int) -> list[tuple[int, int]]:
        """Find the parts of `since_ms <= start < upto_ms` that no plan rates: (begin, end), in order."""
        found = []
        for _, begin, end in self.spans(since_ms, upto_ms):
            if since_ms < begin:
                found.append((since_ms, begin))
            since_ms = end
        return [*found, (since_ms, upto_ms)] if since_ms < upto_ms else found


def charge(meter: Meter, status: Status, rounding: Rounding) -> Quantities:
    """Find what a finished row is charged for.

    Charged is what the caller or the action is answerable for, time-outs and crashes among it; and what the platform
    failed once the action had begun. Not charged: what the platform failed before, and what was cancelled in the queue.
    The statement `usage` of the ledger says the same in SQL; a test holds them together.
    """
    if meter.billed_us == 0 and (status is Status.INTERNAL_ERROR or meter.outcome == "cancelled"):
        return Quantities()
    duration_us = meter.billed_us if rounding.bill_init else max(meter.billed_us - meter.phases.init, 0)
    if duration_us > 0:
        duration_us = max(-(-duration_us // rounding.step_us) * rounding.step_us, rounding.minimum_us)
    return Quantities(invocations=1, memory_mib_us=duration_us * meter.memory_limit_mib, cpu_us=meter.cpu_us)


def price(quantities: Quantities, plan: Plan) -> Decimal:
    """Find what quantities cost, exactly."""
    invocation, memory_mib_us, cpu_us, idle_byte_us = plan.scaled
    units = (
        quantities.invocations * invocation
        + quantities.memory_mib_us * memory_mib_us
        + quantities.cpu_us * cpu_us
        + quantities.idle_byte_us * idle_byte_us
    )
    return _EXACT.scaleb(Decimal(units), -plan.scale)


def in_units(quantities: Quantities) -> tuple[Decimal, Decimal, Decimal, Decimal]:
    """Give each quantity, in the order of the fields, in the unit that its price is of, exactly."""
    amounts = msgspec.structs.astuple(quantities)
    invocation, memory, cpu, idle = (_EXACT.divide(Decimal(each), unit) for each, unit in zip(amounts, _PER_UNIT, strict=True))
    return invocation, memory, cpu, idle


def rate(meter: Meter, status: Status, plan: Plan) -> Decimal:
    """Find what one finished row costs, exactly."""
    return price(charge(meter, status, plan.rounding), plan)


def rate_activation(activation: Activation, prices: Prices) -> dict[str, str] | None:
    """Find what an activation costs by the plan valid at its start: `amount`, `currency`, `plan`.

    None without a plan, and of a sequence or composition: its parts are billed.
    """
    plan = prices.at(activation.start_ms)
    if plan is None or activation.composition is not None:
        return None
    amount = rate(activation.meter, activation.status, plan)
    return {"amount": plain(amount), "currency": plan.currency, "plan": plan.name}


def add(amounts: Iterable[Decimal]) -> Decimal:
    """Add amounts, exactly. `sum` and `+` would round to the 28 digits of Python's default context."""
    total = _NOTHING
    for amount in amounts:
        total = _EXACT.add(total, amount)
    return total


def free_of(quantities: Quantities, plan: Plan) -> Quantities:
    """Find how much of an account's quantities of one month is free under a plan: never more than there is."""
    free = plan.free
    return Quantities(
        invocations=min(max(quantities.invocations, 0), free.invocations),
        memory_mib_us=min(max(quantities.memory_mib_us, 0), free.memory_mib_us),
        cpu_us=min(max(quantities.cpu_us, 0), free.cpu_us),
    )


def bill(quantities: Quantities, plan: Plan) -> Decimal:
    """Find the line of an account's bill for one month: less what is free, rounded once."""
    return plan.line(price(quantities - free_of(quantities, plan), plan))


def plain(amount: Decimal) -> str:
    """Write an amount exactly, without exponent and without zeros at its end."""
    text = f"{amount:f}"
    return (text.rstrip("0").rstrip(".") or "0") if "." in text else text


def _plan(written: _PlanText) -> Plan:
    name = f"{written.id}@{written.version}"
    if written.rounding not in _ROUNDINGS:
        raise BadPrices(f"price plan {name}: rounding is half-even or half-up, not {written.rounding!r}")
    valid_to_ms = None if written.valid_to is None else _ms(name, written.valid_to)
    prices = [_decimal(name, text) for text in (written.invocation, written.memory_gib_s, written.cpu_s, written.idle_gib_s)]
    scaled, scale = _scale(prices)
    plan = Plan(
        plan_id=written.id,
        version=written.version,
        currency=written.currency,
        valid_from_ms=_ms(name, written.valid_from),
        valid_to_ms=valid_to_ms,
        invocation=prices[0],
        memory_gib_s=prices[1],
        cpu_s=prices[2],
        idle_gib_s=prices[3],
        rounding=Rounding(step_us=written.step_ms * 1000, minimum_us=written.minimum_ms * 1000, bill_init=written.bill_init),
        places=written.places,
        line_rounding=_ROUNDINGS[written.rounding],
        free=Quantities(
            invocations=written.free.invocations,
            memory_mib_us=written.free.memory_gib_s * 1024 * 1_000_000,
            cpu_us=written.free.cpu_s * 1_000_000,
        ),
        scaled=scaled,
        scale=scale,
    )
    if valid_to_ms is not None and valid_to_ms <= plan.valid_from_ms:
        raise BadPrices(f"price plan {name} ends before it begins")
    return plan


def _scale(prices: Sequence[Decimal]) -> tuple[tuple[int, int, int, int], int]:
    """Turn prices of units into integers, per smallest quantity, over a common power of ten: `Plan.scaled`, `Plan.scale`."""
    smallest = [_EXACT.divide(each, per_unit) for each, per_unit in zip(prices, _PER_UNIT, strict=True)]
    scale = max(0, *(-int(each.normalize(_EXACT).as_tuple().exponent) for each in smallest))
    invocation, memory, cpu, idle = (int(_EXACT.scaleb(each, scale)) for each in smallest)
    return (invocation, memory, cpu, idle), scale


def _decimal(name: str, text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation as error:
        raise BadPrices(f"price plan {name}: {text!r} is not a decimal number") from error
    exponent = amount.as_tuple().exponent
    if not amount.is_finite() or amount < 0 or amount > 10**12 or not isinstance(exponent, int) or exponent < -28:
        raise BadPrices(f"price plan {name}: {text!r} must be between 0 and 10^12, with at most 28 places")
    return amount


def _ms(name: str, moment: datetime) -> int:
    if moment.utcoffset() is None:
        raise BadPrices(f"price plan {name}: write times with their zone, such as 2026-01-01T00:00:00Z")
    moment = moment.astimezone(UTC)
    return round(moment.timestamp()) * 1000
