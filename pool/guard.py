"""Bounds around the engine: for each class of call a deadline, a width, and a breaker that knows when it is sick.

A container engine may hang for minutes over one bad container, a full disk or a dead network mount. Nothing of the
daemon may then hang with it, or pile up behind it.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pool.breaker import Breaker, BreakerState
from pool.courtesy import Courtesy
from pool.errors import EngineUnavailable, ImageNotFound, InvokerError


class CallClass(enum.Enum):
    """Calls that share a deadline and a width."""

    CREATE = "create"
    REMOVE = "remove"
    READ = "read"
    PULL = "pull"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """How long one engine call may take, seconds. Waiting for one's turn is not counted."""

    create_s: float = 30.0
    remove_s: float = 30.0
    read_s: float = 5.0
    pull_s: float = 900.0

    def of(self, kind: CallClass) -> float:
        """Seconds for a class of call."""
        return float(getattr(self, f"{kind.value}_s"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """How many calls of one class may be under way at once. Parallel starts gain nothing beyond ~2 per core."""

    create: int = 4
    remove: int = 4
    read: int = 8
    pull: int = 2


@dataclass(slots=True)
class CallStatistics:
    """What the metrics tell of one verb.

    Attributes:
        count: calls that ended, however.
        errors: of these, those that failed, `timeouts` included.
        timeouts: of these, those that met their deadline.
        refused: calls that the open breaker refused; not in `count`.
        seconds: sum of the time of all that ended.
    """

    count: int = 0
    errors: int = 0
    timeouts: int = 0
    refused: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Guard:
    """Lets engine calls through, each within its deadline.

    Each class of call has a breaker of its own: an engine that cannot create may still list and remove. `misses_to_open`
    deadlines in a row open it, and all calls of the class are refused for `cooling_s`; then one at a time may try, and the
    first that is answered (an error is an answer) closes it. A pull that takes too long blames the registry, not the engine.

    Attributes:
        on_call: told of each call that ended: verb, `ok` or the code of its error, seconds. May not raise.
        on_sick: told whenever a call other than `list` got no answer: the engine should be looked at. May not raise.
        courtesy: told of each call but pulls, which take as long as they take; None where the engine gives way to nobody.
    """

    deadlines: Deadlines = field(default_factory=Deadlines)
    widths: Widths = field(default_factory=Widths)
    misses_to_open: int = 3
    cooling_s: float = 5.0
    calls: dict[str, CallStatistics] = field(default_factory=dict)
    on_call: Callable[[str, str, float], None] | None = None
    on_sick: Callable[[], None] | None = None
    courtesy: Courtesy | None = None
    _turns: dict[CallClass, asyncio.Semaphore] = field(init=False)
    _breakers: dict[CallClass, Breaker] = field(init=False)

    def __post_init__(self) -> None:
        self._turns = {kind: asyncio.Semaphore(getattr(self.widths, kind.value)) for kind in CallClass}
        self._breakers = {kind: Breaker(self.misses_to_open, self.cooling_s) for kind in CallClass}

    def state(self, kind: CallClass) -> BreakerState:
        """Tell whether calls of a class are let through now."""
        return self._breakers[kind].state(asyncio.get_running_loop().time())

    def sick_classes(self) -> list[CallClass]:
        """Tell the classes of calls to which the engine has not answered lately."""
        return [kind for kind in CallClass if self.state(kind) is not BreakerState.CLOSED]

    @asynccontextmanager
    async def call(self, verb: str, kind: CallClass) -> AsyncIterator[None]:
        """Run the body as one engine call.

        Raises:
            EngineUnavailable: the deadline was met, or the breaker is open.
            ImageNotFound: the deadline of a pull was met.
        """
        statistics = self.calls.setdefault(verb, CallStatistics())
        if self.state(kind) is BreakerState.OPEN:  # not even into the queue
            raise self._refusal(verb, kind, statistics)
        async with self._turns[kind]:
            loop, breaker = asyncio.get_running_loop(), self._breakers[kind]
            began = loop.time()
            if not breaker.admit(began):  # it may have opened while this call waited for its turn
                raise self._refusal(verb, kind, statistics)
            courtesy = None if kind is CallClass.PULL else self.courtesy
            if courtesy is not None:
                courtesy.began(starts_or_removes=kind is not CallClass.READ)
            result = "cancelled"
            try:
                async with asyncio.timeout(self.deadlines.of(kind)) as deadline:
                    yield
                result = "ok"
            except TimeoutError as error:
                result = "timeout"
                statistics.timeouts += deadline.expired()
                deadline_s = f"{self.deadlines.of(kind):g} s"
                if kind is CallClass.PULL:
                    raise ImageNotFound(f"the pull from its registry did not end within {deadline_s}") from error
                raise EngineUnavailable(f"the container engine did not answer within {deadline_s} ({verb})") from error
            except asyncio.CancelledError:
                raise  # our own wish: says nothing about the engine
            except Exception as error:
                result = error.code if isinstance(error, InvokerError) else "error"
                raise
            finally:
                if courtesy is not None:
                    courtesy.ended()
                seconds = loop.time() - began
                statistics.count += 1
                statistics.errors += result != "ok"
                statistics.seconds += seconds
                self._judge(verb, kind, result)
                if self.on_call is not None:
                    self.on_call(verb, result, seconds)

    def _judge(self, verb: str, kind: CallClass, result: str) -> None:
        """Tell the breaker how a call ended."""
        breaker, now = self._breakers[kind], asyncio.get_running_loop().time()
        unanswered = result in {"timeout", EngineUnavailable.code}
        if result == "cancelled":
            breaker.abandoned()
        elif kind is CallClass.PULL or not unanswered:
            breaker.succeeded()
        elif result == "timeout" or breaker.state(now) is BreakerState.HALF_OPEN:
            breaker.missed(now)
        else:
            breaker.abandoned()  # refused at once: that costs nobody anything, and nobody need be kept from trying
        if unanswered and verb != "list" and self.on_sick is not None:
            self.on_sick()

    def _refusal(self, verb: str, kind: CallClass, statistics: CallStatistics) -> EngineUnavailable:
        statistics.refused += 1
        breaker = self._breakers[kind]
        error = EngineUnavailable(
            f"the container engine has missed {breaker.misses} deadlines in a row and is not asked for a while ({verb})"
        )
        error.retry_after_s = max(1.0, breaker.wait_s(asyncio.get_running_loop().time()))
        return error
