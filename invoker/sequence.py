"""A sequence: actions in a row, each called with the result of the one before. Values in, the next step out.

`Sequence` is the way through one without its waiting; `composition.py` carries the steps out.
Source: OpenWhisk, `SequenceActions.scala`.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from invoker.activation import Activation, Status
from invoker.conductor import fields_of
from invoker.runtime import Outcome

#: Actions that a sequence may run, those of the sequences inside included.
SEQUENCE_LENGTH = 50

TOO_LONG = "Too many actions in the sequence."
MISSING = "Sequence component does not exist."

_NOTHING = msgspec.Raw(b"{}")


@dataclass(slots=True)
class Length:
    """How many actions a sequence, and those inside it, have run so far."""

    actions: int = 0


@dataclass(frozen=True, slots=True)
class RunNext:
    """Run component number `index` with this payload: JSON text of an object or an array."""

    index: int
    payload: msgspec.Raw


class Sequence:
    """One run of a sequence.

    Args:
        components: how many it has.
        length: shared with the sequence around it, where there is one.
    """

    def __init__(self, components: int, length: Length) -> None:
        self._components = components
        self._length = length
        self._index = 0

    def begin(self, payload: msgspec.Raw) -> RunNext | Outcome:
        """Take the caller's payload. An `error` in it is no failure: it is passed on."""
        return RunNext(0, payload)

    def count_action(self) -> Outcome | None:
        """Count a component that is about to run and is no sequence itself; one too many ends the sequence instead."""
        if self._length.actions >= SEQUENCE_LENGTH:
            return Outcome.failure(Status.APPLICATION_ERROR, TOO_LONG, "sequence-too-long")
        self._length.actions += 1
        return None

    def after(self, run: Activation) -> RunNext | Outcome:
        """Take what a component came to: the next one, or how the sequence ends.

        An error of any kind ends it, and is its end too. What is no object nor array is not passed on.
        """
        outcome = Outcome(status=run.status, result=run.result, size=run.size, reason=run.meter.outcome, timed_out=run.timed_out)
        if run.status is not Status.SUCCESS:
            return outcome
        error = fields_of(run.result).get("error")
        if error is not None:  # of a composition, whose conductor ended it so
            result = msgspec.Raw(b'{"error":' + bytes(error) + b"}")
            return Outcome(status=Status.APPLICATION_ERROR, result=result, size=run.size, reason="application-error")
        self._index += 1
        if self._index == self._components:
            return outcome
        return RunNext(self._index, _passed_on(run.result))


def _passed_on(result: msgspec.Raw | None) -> msgspec.Raw:
    """Make the next payload of a result."""
    if result is None or bytes(result).lstrip()[:1] not in {b"{", b"["}:
        return _NOTHING
    return result
