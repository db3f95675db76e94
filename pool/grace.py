"""How long an idle container runs on before it is frozen: a function of values.

Waking a frozen container costs a call some tenths of a millisecond. An action that is called again and again after short gaps
would pay that each time, and nothing would be gained: a container that waits for a request uses no CPU time. So where
an action's calls have usually come again soon, its container is left running until that time is over. It ends frozen all the
same, as soon as the calls stay away.
"""

from __future__ import annotations

from pool.keepalive import ENOUGH_GAPS, Habits

#: The share of an action's gaps within which its next call is expected.
USUALLY = 0.9


def grace_s(habits: Habits | None, *, least_s: float, most_s: float) -> float:
    """Say for how long to leave a container running that nobody uses.

    Args:
        habits: of the action that it serves.
        least_s: without anything known; 0 always freezes at once.
        most_s: longest time; not above `least_s` switches learning off.

    Returns:
        Seconds since its last use: when nine of ten gaps would be over, if that is within `most_s`, else `least_s`.
    """
    if least_s <= 0 or most_s <= least_s or habits is None or habits.total < ENOUGH_GAPS:
        return least_s
    expected_s = habits.percentile_s(USUALLY)
    return max(least_s, expected_s) if expected_s <= most_s else least_s
