"""Which actions are not tried, why, and for how long."""

from __future__ import annotations

from pool.docker import EngineRefused
from pool.errors import ContainerStartFailed, EngineDiskFull, EngineUnavailable
from pool.sick_keys import MOST_KEYS, SickKeys


def test_three_failures_in_a_row_refuse_with_the_last_one_and_its_kind_until_it_has_cooled():
    keys = SickKeys()
    for number in range(3):
        assert keys.refusal("k", 10.0) is None
        keys.failed("k", EngineRefused(f"mount {number} is gone", 400), 10.0)
    refused = keys.refusal("k", 12.0)
    assert isinstance(refused, EngineRefused)
    assert refused.status == 400
    assert str(refused) == "mount 2 is gone (3 times in a row; it is tried again in 3 s)"
    assert keys.refusal("other", 12.0) is None
    assert keys.refusal("k", 15.0) is None
    keys.failed("k", ContainerStartFailed("again"), 15.0)
    assert keys.refusal("k", 24.0) is not None, "it is tried less and less often"


def test_a_success_forgets_all():
    keys = SickKeys()
    for _ in range(3):
        keys.failed("k", ContainerStartFailed(), 0.0)
    assert "k" in keys
    keys.succeeded("k")
    assert "k" not in keys
    assert keys.refusal("k", 0.0) is None


def test_what_the_engine_fails_at_for_everybody_is_not_counted():
    keys = SickKeys()
    for _ in range(5):
        keys.failed("k", EngineUnavailable(), 0.0)
        keys.failed("k", EngineDiskFull(), 0.0)
    assert "k" not in keys


def test_no_more_keys_are_remembered_than_a_bound():
    keys = SickKeys()
    for number in range(MOST_KEYS + 1):
        keys.failed(str(number), ContainerStartFailed(), 0.0)
    assert "0" not in keys
    assert str(MOST_KEYS) in keys
