from __future__ import annotations

from pool.model import ContainerSpec, Reactive
from pool.stems import WINDOW_S, StemTargets

SPEC = ContainerSpec(namespace="anna", uid=1, gid=1, image="sha256:00", kind="python:3", memory_mib=256)
REACTIVE = Reactive(least=1, most=8, ttl_s=120.0, threshold=2, increment=1)


def wanted(targets: StemTargets, now: float) -> int:
    target = targets.get(SPEC.digest)
    assert target is not None
    return target.wanted(now)


def test_without_reactive_the_number_stands():
    targets = StemTargets()
    targets.want(SPEC, 3, None, 0.0)
    for _ in range(50):
        targets.note_use(SPEC.digest, 1.0)
    assert wanted(targets, 1.0) == wanted(targets, 1e6) == 3


def test_use_raises_the_number_by_increment_for_each_threshold_up_to_the_most():
    targets = StemTargets()
    targets.want(SPEC, 2, REACTIVE, 0.0)
    assert wanted(targets, 0.0) == 2
    for _ in range(10):
        targets.note_use(SPEC.digest, 1.0)
    assert wanted(targets, 2.0) == 5
    for _ in range(100):
        targets.note_use(SPEC.digest, 3.0)
    assert wanted(targets, 3.0) == 8


def test_demand_is_forgotten_after_two_windows_and_the_rest_after_the_time_to_live():
    targets = StemTargets()
    targets.want(SPEC, 2, REACTIVE, 0.0)
    for _ in range(10):
        targets.note_use(SPEC.digest, 1.0)
    assert wanted(targets, 1.0 + WINDOW_S) == 5
    assert wanted(targets, 1.0 + 2 * WINDOW_S - 2) == 5
    assert wanted(targets, 200.0) == 1


def test_a_use_marks_the_spec_as_one_to_look_at():
    targets = StemTargets()
    targets.want(SPEC, 1, None, 0.0)
    targets.short.clear()
    targets.note_use(SPEC.digest, 1.0)
    assert targets.short == {SPEC.digest}
    targets.note_use("another", 1.0)
    assert targets.short == {SPEC.digest}


def test_dropping_tells_whether_there_was_something():
    targets = StemTargets()
    targets.want(SPEC, 1, None, 0.0)
    assert targets.drop(SPEC.digest)
    assert not targets.drop(SPEC.digest)
    assert not targets.short
