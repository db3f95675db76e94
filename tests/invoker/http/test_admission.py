import pytest

from invoker.config.model import LimitsConfig
from invoker.cpu_window import CpuWindows
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
        lambda: admission.admit(namespace("cpu", cpu_seconds_per_window=0), MINUTE_START, 30),
        lambda: admission.admit(namespace("busy"), MINUTE_START, 30),
        lambda: admission.admit_fire(namespace("fires", fires_per_minute=0), MINUTE_START),
    ):
        with pytest.raises(Throttled):
            refused()
    assert told == [("rate", "rate"), ("cpu", "cpu"), ("busy", "concurrent"), ("fires", "fires")]


# --- CPU time


class Spending:
    """An admission whose namespaces have a clock, and use CPU time."""

    def __init__(self, **site):
        self.now = MINUTE_START
        self.site = LimitsConfig(cpu_window_s=600, **site)
        self.cpu = CpuWindows(600, lambda: self.now)
        self.admission = Admission(lambda: self.site, cpu=self.cpu)

    def use(self, cpu_us, name="guest"):
        self.cpu.add(name, cpu_us, int(self.now * 1000))

    def refusal(self, one):
        """Both doors decide alike."""
        passes = self.admission.admits(one, self.now, 0)
        try:
            self.admission.admit(one, self.now, 0)
        except Throttled as refused:
            assert not passes
            return refused
        assert passes
        return None


def test_without_a_limit_all_the_cpu_time_may_be_used():
    spending = Spending()
    spending.use(10**15)
    assert spending.refusal(namespace()) is None


def test_who_has_used_up_the_window_is_told_how_much_of_how_much_and_when_to_come_back():
    spending = Spending(cpu_seconds_per_window=100)
    spending.use(60_000_000)
    spending.now += 30
    spending.use(39_999_999)
    assert spending.refusal(namespace()) is None
    spending.use(20_500_001)
    refused = spending.refusal(namespace())
    assert str(refused) == (
        "Too much CPU time used in the last 600 seconds (used: 120.5 s, allowed: 100 s). Try again in 580 seconds."
    )
    # What was used first is forgotten a window after the end of the step of 10 s that it was used in.
    assert refused.retry_after_s == 580
    spending.now += 579.9
    assert spending.refusal(namespace()) is not None
    spending.now += 0.1
    assert spending.refusal(namespace()) is None


def test_the_cpu_time_of_others_counts_for_nobody_else():
    spending = Spending(cpu_seconds_per_window=1)
    spending.use(5_000_000, "other")
    assert spending.refusal(namespace()) is None


def test_a_namespaces_own_cpu_limit_goes_before_the_sites_and_zero_allows_nothing():
    spending = Spending(cpu_seconds_per_window=100)
    spending.use(50_000_000)
    assert spending.refusal(namespace(cpu_seconds_per_window=50)) is not None
    assert spending.refusal(namespace(cpu_seconds_per_window=51)) is None
    spending.site = LimitsConfig(cpu_seconds_per_window=50)
    assert spending.refusal(namespace(cpu_seconds_per_window=51)) is None
    assert spending.refusal(namespace()) is not None
    nothing = spending.refusal(namespace("idle", cpu_seconds_per_window=0))
    assert "used: 0.0 s, allowed: 0 s" in str(nothing)
    assert nothing.retry_after_s == 600


def test_a_refusal_for_cpu_time_says_so_also_where_too_much_is_in_flight():
    spending = Spending(cpu_seconds_per_window=1)
    spending.use(1_000_000)
    with pytest.raises(Throttled, match="CPU time"):
        spending.admission.admit(namespace(concurrent_invocations=3), MINUTE_START, 3)
