import pytest

from invoker.config.model import LimitsConfig
from invoker.errors import Throttled
from invoker.http.admission import Admission
from invoker.model import LimitOverrides, Namespace

MINUTE_START = 1_700_000_040.0


def namespace(name="guest", **limits):
    return Namespace(name=name, uuid=f"uuid-{name}", key_hash="", uid=1, gid=1, created_ms=0, limits=LimitOverrides(**limits))


@pytest.fixture
def admission():
    site = LimitsConfig.of_profile("openwhisk")
    return Admission(lambda: site)


def test_a_minute_allows_as_many_invocations_as_the_limit_and_not_one_more(admission):
    for _ in range(60):
        admission.admit(namespace(), MINUTE_START, 0)
    with pytest.raises(Throttled, match=r"requests in the last minute \(count: 61, allowed: 60\)"):
        admission.admit(namespace(), MINUTE_START + 59.9, 0)


def test_the_count_begins_again_with_the_next_minute_of_the_clock(admission):
    for _ in range(60):
        admission.admit(namespace(), MINUTE_START + 59, 0)
    admission.admit(namespace(), MINUTE_START + 60, 0)


def test_retry_after_reaches_the_next_minute(admission):
    for _ in range(60):
        admission.admit(namespace(), MINUTE_START, 0)
    with pytest.raises(Throttled) as refused:
        admission.admit(namespace(), MINUTE_START + 17.5, 0)
    assert refused.value.retry_after_s == 43


def test_refused_requests_count_too(admission):
    one = namespace(invocations_per_minute=1)
    admission.admit(one, MINUTE_START, 0)
    for count in (2, 3):
        with pytest.raises(Throttled, match=f"count: {count}, allowed: 1"):
            admission.admit(one, MINUTE_START, 0)


def test_what_is_in_flight_must_be_below_the_limit(admission):
    admission.admit(namespace(), MINUTE_START, 29)
    with pytest.raises(Throttled, match=r"concurrent requests in flight \(count: 30, allowed: 30\)"):
        admission.admit(namespace(), MINUTE_START, 30)


def test_who_asks_first_is_counted_when_admitted_and_else_not_at_all_and_nobody_is_told():
    told = []
    admission = Admission(
        lambda: LimitsConfig(invocations_per_minute=2, concurrent_invocations=3), lambda *what: told.append(what)
    )
    assert admission.admits(namespace(), MINUTE_START, 2)
    assert not admission.admits(namespace(), MINUTE_START, 3)
    admission.admit(namespace(), MINUTE_START, 0)
    assert not admission.admits(namespace(), MINUTE_START, 0)
    assert not admission.admits(namespace("other", invocations_per_minute=0), MINUTE_START, 0)
    assert (admission.counted, told) == (2, [])
    assert admission.counts(MINUTE_START).invocations == {namespace().uuid: 2}
    assert admission.admits(namespace(), MINUTE_START + 60, 0)


def test_a_limit_of_zero_allows_nothing_and_says_so(admission):
    with pytest.raises(Throttled, match="count: 1, allowed: 0"):
        admission.admit(namespace(invocations_per_minute=0), MINUTE_START, 0)
    with pytest.raises(Throttled, match="count: 0, allowed: 0"):
        admission.admit(namespace(concurrent_invocations=0), MINUTE_START, 0)


def test_namespaces_are_counted_apart(admission):
    for _ in range(60):
        admission.admit(namespace(), MINUTE_START, 0)
    admission.admit(namespace("other"), MINUTE_START, 0)


def test_fires_have_a_counter_of_their_own(admission):
    one = namespace(fires_per_minute=1, invocations_per_minute=1)
    admission.admit(one, MINUTE_START, 0)
    admission.admit_fire(one, MINUTE_START)
    with pytest.raises(Throttled, match="count: 2, allowed: 1"):
        admission.admit_fire(one, MINUTE_START)


def test_the_second_look_at_concurrency_counts_nothing(admission):
    one = namespace(invocations_per_minute=1)
    admission.admit(one, MINUTE_START, 0)
    for _ in range(3):
        admission.check_concurrency(one, 0)


def test_reloaded_limits_hold_from_the_next_request_on():
    site = LimitsConfig.of_profile("openwhisk")
    admission = Admission(lambda: site)
    admission.admit(namespace(), MINUTE_START, 5)
    site = LimitsConfig.of_profile("openwhisk", concurrent_invocations=5)
    with pytest.raises(Throttled):
        admission.admit(namespace(), MINUTE_START, 5)


def test_each_refusal_is_told_with_its_namespace_and_its_reason():
    told = []
    site = LimitsConfig.of_profile("openwhisk")
    admission = Admission(lambda: site, lambda *each: told.append(each))
    admission.admit(namespace(), MINUTE_START, 0)
    for refused in (
        lambda: admission.admit(namespace("rate", invocations_per_minute=0), MINUTE_START, 0),
        lambda: admission.admit(namespace("busy"), MINUTE_START, 30),
        lambda: admission.admit_fire(namespace("fires", fires_per_minute=0), MINUTE_START),
    ):
        with pytest.raises(Throttled):
            refused()
    assert told == [("rate", "rate"), ("busy", "concurrent"), ("fires", "fires")]
