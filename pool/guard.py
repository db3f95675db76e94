"""Bounds around the engine: a deadline for each call, a width for each class of call, a breaker for a sick engine.

A container engine may hang for minutes over one bad container, a full disk or a dead network mount. Nothing of the
daemon may then hang with it, or pile up behind it.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

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

    The breaker opens when `misses_to_open` deadlines in a row were met, and refuses every call for `cooling_s`.
    After that calls pass again; the first further miss opens it anew, the first answer (an error is one) closes it.
    A pull that takes too long blames the registry, not the engine.

    Attributes:
        on_call: told of each call that ended: verb, `ok` or the code of its error, seconds. May not raise.
    """

    deadlines: Deadlines = field(default_factory=Deadlines)
    widths: Widths = field(default_factory=Widths)
    misses_to_open: int = 3
    cooling_s: float = 5.0
    calls: dict[str, CallStatistics] = field(default_factory=dict)
    on_call: Callable[[str, str, float], None] | None = None
    _turns: dict[CallClass, asyncio.Semaphore] = field(init=False)
    _misses: int = 0
    _open_until: float = 0.0

    def __post_init__(self) -> None:
        self._turns = {kind: asyncio.Semaphore(getattr(self.widths, kind.value)) for kind in CallClass}

    @property
    def is_open(self) -> bool:
        """Whether calls are refused now."""
        return asyncio.get_running_loop().time() < self._open_until

    @asynccontextmanager
    async def call(self, verb: str, kind: CallClass) -> AsyncIterator[None]:
        """Run the body as one engine call.

        Raises:
            EngineUnavailable: the deadline was met, or the breaker is open.
            ImageNotFound: the deadline of a pull was met.
        """
        statistics = self.calls.setdefault(verb, CallStatistics())
        self._refuse_while_open(verb, statistics)
        async with self._turns[kind]:
            self._refuse_while_open(verb, statistics)  # it may have opened while this call waited for its turn
            loop = asyncio.get_running_loop()
            began = loop.time()
            result = "cancelled"
            try:
                async with asyncio.timeout(self.deadlines.of(kind)) as deadline:
                    yield
                result = "ok"
            except TimeoutError as error:
                result = "timeout"
                statistics.timeouts += deadline.expired()
                self._miss(kind)
                failure = ImageNotFound if kind is CallClass.PULL else EngineUnavailable
                raise failure(f"the container engine did not answer within {self.deadlines.of(kind):g} s ({verb})") from error
            except asyncio.CancelledError:
                raise  # our own wish: says nothing about the engine
            except Exception as error:
                self._misses = 0
                result = error.code if isinstance(error, InvokerError) else "error"
                raise
            finally:
                seconds = loop.time() - began
                statistics.count += 1
                statistics.errors += result != "ok"
                statistics.seconds += seconds
                if self.on_call is not None:
                    self.on_call(verb, result, seconds)
            self._misses = 0

    def _refuse_while_open(self, verb: str, statistics: CallStatistics) -> None:
        if self.is_open:
            statistics.refused += 1
            raise EngineUnavailable(
                f"the container engine has missed {self._misses} deadlines in a row and is not asked for a while ({verb})"
            )

    def _miss(self, kind: CallClass) -> None:
        if kind is CallClass.PULL:
            return
        self._misses += 1
        if self._misses >= self.misses_to_open:
            self._open_until = asyncio.get_running_loop().time() + self.cooling_s
