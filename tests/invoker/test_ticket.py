"""The record of one activation, made from its stamps: values, without a pool."""

import time

import msgspec
import pytest

from invoker.invocation import Call
from invoker.model import CpuQuality, Identity, Status
from invoker.runtime import Outcome
from invoker.ticket import Ticket, Trace, finished_activation, phases_of
from pool.model import ActivationId, StartKind
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
