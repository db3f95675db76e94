"""An idempotency key counts from its call on, for a day."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from invoker.record.activations import IDEMPOTENCY_MS
from invoker.record.idempotency import IdempotencyKeys
from invoker.record.rows import IdempotencyRow


def row(key: str, accepted_ms: int, activation_id: str = "a" * 32) -> IdempotencyRow:
    return IdempotencyRow(
        namespace="anna", action="anna/x", key=key, activation_id=activation_id, body_sha256="0" * 64, accepted_ms=accepted_ms
    )


@pytest.fixture
def clock():
    return SimpleNamespace(now=IDEMPOTENCY_MS)


def test_a_key_counts_for_its_time_and_for_its_action_alone(clock):
    old, new = row("old", 1), row("new", IDEMPOTENCY_MS)
    keys = IdempotencyKeys([old], lambda: clock.now)
    keys.add(new)
    assert keys.find("anna", "anna/x", "old") is old
    assert keys.find("anna", "anna/y", "old") is None
    assert keys.find("bob", "anna/x", "old") is None
    clock.now += 1
    assert keys.find("anna", "anna/x", "old") is None
    assert keys.find("anna", "anna/x", "new") is new


def test_old_keys_are_forgotten_as_new_ones_come(clock):
    keys = IdempotencyKeys([row(str(n), n) for n in range(5)], lambda: clock.now)
    clock.now += 10
    for n in range(3):
        keys.add(row(f"new{n}", clock.now))
    assert [key for _, _, key in keys._rows] == ["new0", "new1", "new2"]


def test_a_key_whose_call_was_not_promised_does_not_count_unless_another_one_took_it(clock):
    keys = IdempotencyKeys([], lambda: clock.now)
    first, second = row("k", clock.now), row("k", clock.now, "b" * 32)
    keys.add(first)
    keys.take_back(first)
    assert keys.find("anna", "anna/x", "k") is None
    keys.add(first)
    keys.add(second)
    keys.take_back(first)
    assert keys.find("anna", "anna/x", "k") is second
