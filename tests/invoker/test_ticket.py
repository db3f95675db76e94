"""The record of one activation, made from its stamps: values, without a pool."""

import itertools
import time

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from invoker.activation import CpuQuality, Status
from invoker.invocation import Call
from invoker.model import Identity
from invoker.runtime import Outcome
from invoker.ticket import Ticket, Trace, finished_activation, phases_of
from pool.lease import Usage
from pool.model import ActivationId, MemoryReading, PeakQuality, StartKind
from tests.support.invoker_site import ANNA, action

ID = ActivationId("0" * 32)


def ticket(ago_s=10.0, **stamps):
    """An activation that arrived so long ago; stamps are seconds after its arrival."""
    received = time.monotonic() - ago_s
    call = Call(
        identity=Identity(namespace=ANNA, api_key="u:k"),
        action=action(),
        payload=msgspec.Raw(b"{}"),
        payload_bytes=2,
        transaction="t",
        blocking=True,
        wait_s=10.0,
        received=received,
        authenticate_us=300,
        authorise_us=200,
    )
    times = {name: received + value for name, value in stamps.items() if isinstance(value, float)}
    others = {name: value for name, value in stamps.items() if not isinstance(value, float)}
    return Ticket(ID, call, 1_700_000_000.0, False, Trace(received=received, **times, **others))


COLD = {
    "planned": 1.0,
    "pulled": 2.0,
    "created_from": 2.5,
    "created_to": 4.0,
    "granted": 4.5,
    "init_began": 4.5,
    "run_began": 6.0,
    "ended": 9.0,
    "start_kind": StartKind.COLD,
}
FROZEN = {
    "planned": 1.0,
    "pulled": 1.0,
    "granted": 2.0,
    "sent": 2.25,
    "run_began": 2.0,
    "ended": 9.0,
    "start_kind": StartKind.FROZEN,
}


@pytest.mark.parametrize("stamps", [COLD, FROZEN, {"planned": 1.0}, {}], ids=["cold", "frozen", "never-granted", "never-planned"])
def test_phases_are_disjoint_and_come_to_the_whole_time(stamps):
    phases = phases_of(ticket(**stamps))
    assert phases.total == pytest.approx(10_000_000, rel=0.01)
    assert min(msgspec.structs.astuple(phases)) >= 0


def histories():
    """What may have been stamped, in order, after how many seconds each; a call may end after any of it."""
    gap = st.floats(min_value=0.0, max_value=1000.0)
    return st.fixed_dictionaries(
        {
            "gaps": st.lists(gap, min_size=7, max_size=7),
            "kind": st.sampled_from(StartKind),
            "comes_to": st.integers(min_value=0, max_value=6),
            "creation": st.tuples(st.floats(-1000.0, 5000.0), gap),
        }
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories())
def test_phases_of_any_history_are_disjoint_and_come_to_the_whole_time_and_the_bill_is_of_two_of_them(history):
    gaps, kind, comes_to = history["gaps"], history["kind"], history["comes_to"]
    names = ["planned", "pulled", "granted", "run_began", "sent", "ended"][:comes_to]
    times = dict(zip(names, itertools.accumulate([0.001 + gaps[0], *gaps[1:comes_to]]), strict=False)) if names else {}
    if "granted" in times:
        times["start_kind"] = kind
        if kind in {StartKind.COLD, StartKind.STEM}:
            times["init_began"] = times["granted"]
        if kind is StartKind.COLD:
            created_from, lasted = history["creation"]
            times |= {"created_from": created_from, "created_to": min(created_from + lasted, times["granted"])}
    whole = sum(gaps) + 1.0
    with pytest.MonkeyPatch.context() as clock:
        made = ticket(ago_s=0.0, **times)
        clock.setattr("invoker.ticket.time.monotonic", lambda: made.trace.received + whole)
        activation = finished_activation(made, Outcome(status=Status.SUCCESS, result=None), node="n")
    phases = activation.meter.phases
    assert phases.total == pytest.approx(whole * 1e6, abs=1000)
    assert min(msgspec.structs.astuple(phases)) >= 0
    assert activation.meter.billed_us == phases.init + phases.run
    assert activation.end_ms - activation.start_ms == round(activation.meter.billed_us / 1000)
    assert activation.wait_ms >= 0


def test_each_phase_of_a_cold_start_is_the_time_between_its_stamps():
    phases = phases_of(ticket(**COLD))
    assert (phases.pull, phases.create, phases.init, phases.run) == pytest.approx((1e6, 1.5e6, 1.5e6, 3e6), abs=2)
    assert phases.queue == pytest.approx(1e6, abs=2), "what creating does not explain"


def test_a_frozen_start_has_a_thaw_and_no_init_and_is_billed_for_its_run():
    activation = finished_activation(ticket(**FROZEN), Outcome(status=Status.SUCCESS, result=None), node="n")
    assert activation.meter.phases.thaw == pytest.approx(250_000, abs=2)
    assert activation.init_ms is None
    assert activation.meter.billed_us == pytest.approx(6_750_000, abs=2)


def test_an_activation_without_counters_says_that_they_are_missing():
    activation = finished_activation(ticket(), Outcome(status=Status.INTERNAL_ERROR, result=None), node="n")
    assert (activation.meter.cpu_quality, activation.meter.cpu_us, activation.meter.billed_us) == (CpuQuality.MISSING, 0, 0)


def test_what_the_kernel_counted_is_in_the_record():
    memory = MemoryReading(peak=5, peak_quality=PeakQuality.EXACT, anonymous=4, shared=3, cache=2)
    used = Usage(cpu_us=11, throttled_us=12, oom_kills=13, memory=memory)
    activation = finished_activation(ticket(**FROZEN, usage=used), Outcome(status=Status.SUCCESS, result=None), node="n")
    meter = activation.meter
    assert (meter.cpu_us, meter.throttled_us, meter.oom_kills, meter.cpu_quality) == (11, 12, 13, CpuQuality.EXACT)
    assert (meter.peak_bytes, meter.peak_quality) == (5, PeakQuality.EXACT)
    assert (meter.anonymous_bytes, meter.shared_bytes, meter.cache_bytes) == (4, 3, 2)
