"""Actions whose containers cannot be made: after three failures in a row they are not tried for a while; nobody else is slowed.

An image that always ends at once, or a mount that is gone, fails each time in the same way and costs the engine a creation each
time. Pure state; time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pool.breaker import Breaker, BreakerState
from pool.errors import EngineDiskFull, EngineUnavailable, InvokerError

#: Keys that are remembered; the one that failed first is forgotten first.
MOST_KEYS = 1024
#: What says nothing of the action: the engine is sick for everybody.
ENGINES_OWN = (EngineUnavailable, EngineDiskFull)


@dataclass(slots=True)
class _Sick:
    breaker: Breaker
    error: InvokerError


@dataclass(slots=True)
class SickKeys:
    """Failed creations by the digest of the reuse key. A new revision of an action is a new key, and starts afresh."""

    _keys: dict[str, _Sick] = field(default_factory=dict)

    def __contains__(self, digest: str) -> bool:
        """Whether creations for this key have failed since the last that did not."""
        return digest in self._keys

    def failed(self, digest: str, error: InvokerError, now: float) -> None:
        """A container could not be made for this key."""
        if isinstance(error, ENGINES_OWN):
            return
        sick = self._keys.get(digest)
        if sick is None:
            if len(self._keys) >= MOST_KEYS:
                del self._keys[next(iter(self._keys))]
            sick = self._keys[digest] = _Sick(Breaker(), error)
        sick.error = error
        sick.breaker.missed(now)

    def succeeded(self, digest: str) -> None:
        """A container was made: all is forgotten."""
        self._keys.pop(digest, None)

    def refusal(self, digest: str, now: float) -> InvokerError | None:
        """Return why no container is made for this key now: the last failure, and when it is tried again. None to try."""
        sick = self._keys.get(digest)
        if sick is None or sick.breaker.state(now) is not BreakerState.OPEN:
            return None
        error = _twin(sick.error)
        wait_s = sick.breaker.wait_s(now)
        error.args = (f"{sick.error} ({sick.breaker.misses} times in a row; it is tried again in {wait_s:.0f} s)",)
        return error


def _twin(error: InvokerError) -> InvokerError:
    """Make another error of the same class with the same facts, which may be raised beside the first."""
    twin = type(error).__new__(type(error))
    twin.__dict__.update(error.__dict__)
    return twin
