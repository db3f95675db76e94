"""Sequences and compositions carried out: `sequence.py` and `conductor.py` say what runs next, here it is run and waited for.

Each part is an activation of its own, with its own record, container and bill. The whole has a record too, which names its
parts and bears no cost: docs/decisions/0030-a-sequence-costs-what-its-parts-cost.md.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import msgspec

from invoker.activation import Activation, Composition, Meter, Phases, Status
from invoker.conductor import Conductor, Counts, Finish, RunComponent, RunConductor, Step, candidates
from invoker.errors import EntityNotFound, NotAuthorised, WrongCollection
from invoker.invocation import Call, Within
from invoker.manifest import SEQUENCE
from invoker.model import Action, Identity, Limits
from invoker.resolve import ResolvedAction
from invoker.runtime import Outcome
from invoker.sequence import MISSING, Length, RunNext, Sequence
from pool.errors import InvokerError
from pool.model import ActivationId

#: How deep sequences and compositions may nest. What counts actions does not see a cycle that has none.
MOST_NESTED = 50
TOO_DEEP = f"Too many actions in the composition: sequences and compositions nest more than {MOST_NESTED} deep."

Count = TypeVar("Count", Counts, Length)

#: There is no such action, or it is not for this caller.
_UNRESOLVED = (EntityNotFound, WrongCollection, NotAuthorised)


class Resolve(Protocol):
    """Finds the action of a full path, `ns/[package/]name`, for a caller who wants to run it."""

    def __call__(self, identity: Identity, path: str) -> ResolvedAction:
        """Find it.

        Raises:
            EntityNotFound, WrongCollection: there is none.
            NotAuthorised: not for this caller.
        """


class RunPart(Protocol):
    """Runs one part to its end. What becomes of it is in its record."""

    async def __call__(self, course: Course, call: Call) -> Activation:
        """Run it.

        Raises:
            InvokerError: it could not even begin.
        """


@dataclass(slots=True, eq=False)
class Course:
    """One sequence or composition in flight, and what it has come to so far."""

    activation_id: ActivationId
    call: Call
    #: The part that runs now, for who cancels the whole.
    running: ActivationId | None = None
    #: No further part begins.
    cancelled: bool = False
    #: In the order they ran: those that it ran itself, not what ran inside them.
    parts: list[ActivationId] = field(default_factory=list)
    #: Sum over the parts.
    duration_ms: int = 0
    #: Largest limit of the parts.
    memory_mib: int = 0
    began: float = 0.0
    #: Holds its place among those that are about to wait for a container; closed when its first part does.
    coming: ExitStack = field(default_factory=ExitStack)

    def add(self, part: Activation) -> None:
        """A part has ended."""
        self.running = None
        self.parts.append(part.activation_id)
        self.duration_ms += part.duration_ms
        self.memory_mib = max(self.memory_mib, part.limits.memory)


def first_of(resolve: Resolve, identity: Identity, action: Action) -> Action | None:
    """Find what is run first when an action is: of a sequence its first component, of a conductor itself.

    None where that is nothing, or not for this caller: it will be said when it runs.
    """
    for _ in range(MOST_NESTED):
        if action.exec.kind != SEQUENCE:
            return action
        if not action.exec.components:
            return None
        try:
            action = resolve(identity, action.exec.components[0]).action
        except _UNRESOLVED:
            return None
    return None


class _Cancelled(Exception):
    """The whole was cancelled."""


class Composer:
    """Carries sequences and compositions out.

    Args:
        resolve: finds actions.
        run_part: runs one.
    """

    def __init__(self, resolve: Resolve, run_part: RunPart) -> None:
        self._resolve = resolve
        self._run_part = run_part

    async def conduct(self, course: Course) -> Outcome:
        """Run all of it. What goes wrong is in the outcome."""
        course.began = time.monotonic()
        if _depth(course) > MOST_NESTED:
            return Outcome.failure(Status.APPLICATION_ERROR, TOO_DEEP, "composition-too-long")
        run = self._run_sequence if course.call.action.exec.kind == SEQUENCE else self._run_composition
        try:
            return await run(course)
        except _Cancelled:
            return Outcome.failure(Status.APPLICATION_ERROR, "The activation was cancelled.", "cancelled")
        except InvokerError as error:
            return Outcome.failure(Status.INTERNAL_ERROR, str(error), error.code)

    async def _run_sequence(self, course: Course) -> Outcome:
        call = course.call
        try:  # all of them now: what is deleted meanwhile does not matter
            targets = [self._resolve(call.identity, path) for path in call.action.exec.components]
        except _UNRESOLVED:
            return Outcome.failure(Status.APPLICATION_ERROR, MISSING, "component-missing")
        length = _shared(call.within, Length)
        sequence = Sequence(len(targets), length)
        step = sequence.begin(call.payload)
        while isinstance(step, RunNext):
            target = targets[step.index]
            nested = target.action.exec.kind == SEQUENCE
            if not nested and (too_many := sequence.count_action()) is not None:
                return too_many
            within = Within(cause=course.activation_id, counts=length if nested else None, depth=_depth(course) + 1)
            step = sequence.after(await self._run(course, target, step.payload, within))
        return step

    async def _run_composition(self, course: Course) -> Outcome:
        call = course.call
        counts = _shared(call.within, Counts)
        conductor = Conductor(counts)
        as_conductor = Within(cause=course.activation_id, plain=True)
        step: Step = conductor.begin(call.payload)
        while not isinstance(step, Finish):
            if isinstance(step, RunConductor):
                run = await self._run(course, None, step.payload, as_conductor)
                step = conductor.after_conductor(run)
                continue
            target = self._find(call.identity, step)
            if isinstance(target, str):
                step = conductor.refused(target)
                continue
            composition = target.action.is_composed and target.action.exec.kind != SEQUENCE
            if not composition:
                conductor.count_component()
            within = Within(cause=course.activation_id, counts=counts if composition else None, depth=_depth(course) + 1)
            step = conductor.after_component(await self._run(course, target, step.payload, within))
        return step.outcome

    def _find(self, identity: Identity, step: RunComponent) -> ResolvedAction | str:
        """Find what a conductor named, or say in a sentence for it why that is nothing."""
        paths = candidates(step.name, identity.namespace.name)
        if not paths:
            shown = msgspec.json.encode(step.name).decode()
            return f"Failed to parse action name from json value {shown} during composition."
        refusals: list[str] = []
        for path in paths:
            try:
                return self._resolve(identity, path)
            except NotAuthorised:
                refusals.append(f"Failed entitlement check for action with name '{path}' during composition.")
            except (EntityNotFound, WrongCollection):
                refusals.append(f"Failed to resolve action with name '{path}' during composition.")
        return refusals[0]  # what the name means first of all

    async def _run(self, course: Course, target: ResolvedAction | None, payload: msgspec.Raw, within: Within) -> Activation:
        """Run one part and book it. Without a target it is the conductor."""
        if course.cancelled:
            raise _Cancelled
        call = msgspec.structs.replace(
            course.call,
            action=course.call.action if target is None else target.action,
            binding=course.call.binding if target is None else target.binding_path,
            payload=payload,
            payload_bytes=len(bytes(payload)),
            within=within,
            received=time.monotonic(),
            authenticate_us=0,
            authorise_us=0,
            idempotency_key=None,
        )
        part = await self._run_part(course, call)
        course.add(part)
        if course.cancelled:
            raise _Cancelled
        return part


def _depth(course: Course) -> int:
    """How many sequences and compositions are around this one."""
    return 0 if course.call.within is None else course.call.within.depth


def _shared(within: Within | None, kind: type[Count]) -> Count:
    """Go on counting where the enclosing one of the same kind counts, else begin."""
    counts = None if within is None else within.counts
    return counts if isinstance(counts, kind) else kind()


def finished_composition(course: Course, outcome: Outcome, *, node: str, wall: float) -> Activation:
    """Make the record of a sequence or composition. Its meter is empty but for the phases: the parts are billed.

    Args:
        course: how it went.
        outcome: what it came to.
        node: of this daemon.
        wall: wall clock at its arrival, seconds.
    """
    call, action = course.call, course.call.action
    began = course.began or time.monotonic()
    run_us = round((time.monotonic() - began) * 1e6)
    start_ms = int((wall + began - call.received) * 1000)
    return Activation(
        activation_id=course.activation_id,
        node=node,
        namespace=call.identity.namespace.name,
        subject=call.identity.namespace.name,
        path=action.full_path,
        binding=call.binding,
        version=action.version,
        kind=SEQUENCE,
        limits=Limits(timeout=action.limits.timeout, memory=course.memory_mib, logs=action.limits.logs),
        start_ms=start_ms,
        end_ms=start_ms + round(run_us / 1000),
        status=outcome.status,
        result=outcome.result,
        size=outcome.size,
        wait_ms=max(0, round((began - call.received) * 1000)),
        cause=None if call.within is None else call.within.cause,
        transaction=call.transaction,
        composition=Composition(
            parts=tuple(course.parts),
            duration_ms=course.duration_ms,
            is_conductor=action.exec.kind != SEQUENCE,
            is_topmost=call.within is None,
        ),
        meter=Meter(
            request_bytes=call.payload_bytes,
            response_bytes=len(bytes(outcome.result)) if outcome.result is not None else 0,
            outcome=outcome.reason,
            phases=Phases(
                authenticate=call.authenticate_us,
                authorise=call.authorise_us,
                resolve=max(0, round((began - call.received) * 1e6) - call.authenticate_us - call.authorise_us),
                run=run_us,
            ),
        ),
    )
