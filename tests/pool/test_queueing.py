from __future__ import annotations

from pool.model import ActivationId, ContainerSpec, ReuseKey, Standing
from pool.queueing import FairQueue, Waiter, weight_of


def waiter(name: str, *, uid: int = 1, action: str = "hello", arrived: float = 0.0, standing: Standing = Standing.NEW) -> Waiter:
    spec = ContainerSpec(namespace=f"u{uid}", uid=uid, gid=uid, image="sha256:00", kind="python:3", memory_mib=256)
    return Waiter(ActivationId(name), ReuseKey(spec=spec, action=action, revision="r1"), arrived, standing)


def drain(queue: FairQueue, cost: float = 1.0) -> list[str]:
    """Serve all, one at a time, in turn."""
    served = []
    while queue:
        digest, _ = queue.in_turn()[0]
        line = queue.line(digest)
        assert line is not None
        first = line.oldest()
        queue.serve(first, cost)
        queue.check_invariants()
        served.append(str(first.activation))
    return served


def test_one_action_is_served_first_come_first_served():
    queue = FairQueue()
    for number in range(5):
        queue.push(waiter(f"a{number}", arrived=number), weight=1.0)
    assert drain(queue) == ["a0", "a1", "a2", "a3", "a4"]


def test_what_a_container_waits_for_goes_before_all_others_in_the_order_it_came():
    queue = FairQueue()
    for number in range(3):
        queue.push(waiter(f"a{number}", arrived=number), weight=1.0)
    queue.push(waiter("other", uid=2, action="other", arrived=3), weight=100.0)
    for number in range(2):
        queue.push(waiter(f"nested{number}", arrived=4 + number, standing=Standing.NESTED), weight=1.0)
    queue.push(waiter("part", arrived=6, standing=Standing.PART), weight=1.0)
    queue.overflow(waiter("a0").key.digest)
    served = drain(queue)
    assert served[:2] == ["nested0", "nested1"]
    assert set(served[2:]) == {"a0", "a1", "a2", "other", "part"}


def test_a_user_with_few_calls_is_not_behind_one_with_many():
    queue = FairQueue()
    for number in range(100):
        queue.push(waiter(f"a{number}", arrived=number), weight=1.0)
    queue.push(waiter("b0", uid=2, arrived=100), weight=1.0)
    queue.push(waiter("b1", uid=2, arrived=101), weight=1.0)
    served = drain(queue)
    assert max(served.index(name) for name in ("b0", "b1")) <= 3


def test_users_are_served_in_proportion_to_their_weights():
    queue = FairQueue()
    for number in range(60):
        queue.push(waiter(f"a{number}", uid=1), weight=1.0)
        queue.push(waiter(f"b{number}", uid=2), weight=3.0)
    first = drain(queue)[:40]
    assert abs(sum(name.startswith("b") for name in first) - 30) <= 2


def test_costly_activations_are_charged_more():
    queue = FairQueue()
    for number in range(20):
        queue.push(waiter(f"a{number}", uid=1), weight=1.0)
        queue.push(waiter(f"b{number}", uid=2), weight=1.0)
    served = []
    for _ in range(12):
        _, oldest = queue.in_turn()[0]
        queue.serve(oldest, 5.0 if oldest.key.spec.uid == 1 else 1.0)
        served.append(oldest.key.spec.uid)
    assert served.count(2) >= 4 * served.count(1)


def test_what_a_user_did_not_use_is_not_saved_up():
    queue = FairQueue()
    for number in range(50):
        queue.push(waiter(f"a{number}", uid=1), weight=1.0)
    for _ in range(40):
        queue.serve(queue.in_turn()[0][1], 1.0)
    for number in range(20):
        queue.push(waiter(f"b{number}", uid=2), weight=1.0)
    first = drain(queue)[:10]
    assert 4 <= sum(name.startswith("b") for name in first) <= 6


def test_an_overflowed_line_is_served_in_the_order_of_arrival_and_is_overflowed_no_more_once_it_was_empty():
    queue, digest = FairQueue(), waiter("a0").key.digest
    for number in range(3):
        queue.push(waiter(f"a{number}", arrived=number), weight=1.0)
    queue.overflow(digest)
    assert queue.line(digest).overflowed
    assert drain(queue) == ["a0", "a1", "a2"], "who came first is not starved by those who came later"
    queue.push(waiter("a3", arrived=3), weight=1.0)
    assert not queue.line(digest).overflowed


def test_who_is_refused_is_told_how_long_the_line_will_take():
    queue = FairQueue()
    for number in range(30):
        queue.push(waiter(f"a{number}"), weight=1.0)
    assert queue.retry_after_s(5.0) == 1.0, "nothing was served yet: nothing is known"
    for _ in range(10):
        queue.serve(queue.in_turn()[0][1], 1.0)
    assert queue.retry_after_s(5.0, uid=1) == 10.0, "twenty wait, two a second are served"
    assert queue.retry_after_s(1e6) == 60.0
    for each in queue.all():
        queue.serve(each, 1.0)
    assert queue.retry_after_s(1e6 + 0.1) == 60.0, "of all users it is worked out once in a while"
    assert queue.retry_after_s(1e6 + 1.0) == 1.0


def test_waiters_of_one_spec_are_found_whatever_their_action():
    queue = FairQueue()
    queue.push(waiter("a0", action="one", arrived=2.0), weight=1.0)
    queue.push(waiter("a1", action="two", arrived=1.0), weight=1.0)
    queue.push(waiter("b0", uid=2, arrived=0.0), weight=1.0)
    found = queue.waiting_for(waiter("a0").key.spec.digest)
    assert [each.activation for each in found] == ["a1", "a0"]


def test_first_fitting_pattern_gives_the_weight():
    shares = (("physics-*", 4.0), ("*-guest", 0.5))
    assert [weight_of(name, shares) for name in ("physics-guest", "bio-guest", "bio")] == [4.0, 0.5, 1.0]
