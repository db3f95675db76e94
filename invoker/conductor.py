"""A conductor: an action that decides, run by run, which action a composition runs next. Values in, the next step out.

`Conductor` is the loop without its waiting: each method takes what came of the last step and returns the next one.
`composition.py` carries the steps out. Counting is shared with compositions inside, so that no nesting has more than one.
Source: OpenWhisk, `PrimitiveActions.scala`, `invokeConductor` and `invokeComponent`.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from invoker.activation import Activation, Status
from invoker.runtime import Outcome

#: Actions that a composition may run; compositions inside share it.
COMPOSITION_LENGTH = 50
#: Runs of conductors in one composition, those inside included: before, between and after its actions, and one to end with.
CONDUCTOR_RUNS = 2 * COMPOSITION_LENGTH + 1

TOO_LONG = "Too many actions in the composition."

_encode = msgspec.json.encode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(slots=True)
class Counts:
    """What a composition, and all those inside it, have run so far."""

    components: int = 0
    conductor_runs: int = 0


@dataclass(frozen=True, slots=True)
class RunConductor:
    """Run the conductor with this payload."""

    payload: msgspec.Raw


@dataclass(frozen=True, slots=True)
class RunComponent:
    """Run the action of this name with this payload."""

    name: str
    payload: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Finish:
    """The composition is over."""

    outcome: Outcome


Step = RunConductor | RunComponent | Finish


class Conductor:
    """One composition: what it remembers between two runs of its conductor.

    Args:
        counts: shared with the composition around it, where there is one.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        #: What the last run of the conductor asked to be given back; laid over what the next one gets.
        self._state: dict[str, msgspec.Raw] = {}

    def begin(self, payload: msgspec.Raw) -> Step:
        """Take the caller's payload, JSON text of an object."""
        return self._run_conductor(payload)

    def after_conductor(self, run: Activation) -> Step:
        """Take what the conductor said."""
        said = fields_of(run.result)
        parameters = _boxed(said.get("params"), "value")
        self._state = fields_of(_boxed(said.get("state"), "state"))
        if "action" not in said:
            result = run.result if parameters is None else parameters
            return Finish(Outcome(status=run.status, result=result, reason=run.meter.outcome, timed_out=run.timed_out))
        try:
            name = msgspec.json.decode(said["action"], type=str)
        except msgspec.ValidationError:
            shown = bytes(said["action"]).decode()
            return self.refused(f"Failed to parse action name from json value {shown} during composition.")
        if self._counts.components >= COMPOSITION_LENGTH:
            return self.refused(TOO_LONG)
        return RunComponent(name, parameters or msgspec.Raw(b"{}"))

    def after_component(self, run: Activation) -> Step:
        """Take what the action said; an error as well: the conductor decides."""
        return self._run_conductor(run.result or msgspec.Raw(b"{}"))

    def refused(self, sentence: str) -> Step:
        """The action that the conductor named was not run: it is told why, and decides."""
        return self._run_conductor(msgspec.Raw(_encode({"error": sentence})))

    def count_component(self) -> None:
        """Count an action that is run: one that is no composition itself."""
        self._counts.components += 1

    def _run_conductor(self, payload: msgspec.Raw) -> Step:
        if self._counts.conductor_runs >= CONDUCTOR_RUNS:
            return Finish(Outcome.failure(Status.APPLICATION_ERROR, TOO_LONG, "composition-too-long"))
        self._counts.conductor_runs += 1
        if self._state:
            payload = msgspec.Raw(_encode(fields_of(payload) | self._state))
        return RunConductor(payload)


def fields_of(text: msgspec.Raw | None) -> dict[str, msgspec.Raw]:
    """Read the fields of a JSON object, their values as the text they came as; none of what is no object."""
    if text is None or bytes(text).lstrip()[:1] != b"{":
        return {}
    return _decode_fields(text)


def _boxed(value: msgspec.Raw | None, name: str) -> msgspec.Raw | None:
    """Put what is no object into one, under this name."""
    if value is None or bytes(value)[:1] == b"{":
        return value
    return msgspec.Raw(_encode({name: value}))


def candidates(name: str, namespace: str) -> list[str]:
    """Turn the name that a conductor gave into full paths, `ns/[package/]name`, the likelier first; none when it is no name.

    `name` and `package/name` are of the caller's namespace; a leading slash, or three segments, begin with a namespace. Two
    segments without a slash in front may be that, too.
    """
    absolute = name.startswith("/")
    segments = name.removeprefix("/").split("/")
    if not 1 <= len(segments) <= 3 or not all(segments) or (absolute and len(segments) == 1):
        return []
    with_namespace = "/".join([namespace if segments[0] == "_" else segments[0], *segments[1:]])
    if absolute or len(segments) == 3:
        return [with_namespace]
    own = "/".join([namespace, *segments])
    return [own] if len(segments) == 1 else [own, with_namespace]
