"""What can happen to the pool, and what is then to be done. Events go into `Machine.handle`, commands come out.

They are msgspec structs and not dataclasses: one is made for each step of each activation, and a struct costs a tenth.
"""

from __future__ import annotations

import msgspec

from pool.errors import InvokerError
from pool.model import ActivationId, ContainerId, ContainerSpec, Reactive, ReuseKey, Standing, StartKind

# ---- events


class Event(msgspec.Struct, frozen=True, gc=False):
    """Something happened."""


class Arrived(Event, frozen=True):
    """An activation wants a container."""

    activation: ActivationId
    key: ReuseKey
    standing: Standing = Standing.NEW


class Initialised(Event, frozen=True):
    """The container that this activation holds has its code.

    Attributes:
        takes_one: that code runs one activation at a time, whatever the key's concurrency.
    """

    activation: ActivationId
    takes_one: bool = False


class Ended(Event, frozen=True):
    """An activation needs its container, or its place in the queue, no more.

    Attributes:
        reusable: false when the function touched the container and did not come to a clean end.
    """

    activation: ActivationId
    reusable: bool


class Created(Event, frozen=True):
    """The container runs.

    Attributes:
        exercised: it has answered an empty request; before that it must not be frozen.
    """

    container: ContainerId
    exercised: bool


class CreateFailed(Event, frozen=True):
    """The container could not be created; what may be left of it is to be removed."""

    container: ContainerId
    error: InvokerError


class FreezeConfirmed(Event, frozen=True):
    """The kernel says that all of its processes stand still."""

    container: ContainerId


class FreezeFailed(Event, frozen=True):
    """The kernel refused, or did not get there in time."""

    container: ContainerId


class Probed(Event, frozen=True):
    """A suspect or a found container was looked at.

    Attributes:
        usable: it answered, or it is frozen as it should be.
        frozen: what the kernel says now.
    """

    container: ContainerId
    usable: bool
    frozen: bool


class Spoiled(Event, frozen=True):
    """An activation in it has ended, but not well, and others run on in it: it is to take no more."""

    container: ContainerId


class Died(Event, frozen=True):
    """The container's main process has ended."""

    container: ContainerId


class Removed(Event, frozen=True):
    """The engine says that the container is gone."""

    container: ContainerId


class Found(Event, frozen=True):
    """A container of an earlier daemon was found idle at start.

    Attributes:
        key: of the action that it was specialised for; None for a stem cell.
        takes_one: its code runs one activation at a time.
        held_mib: what it holds, page cache included, where it stands still and so cannot grow; None where it may.
        age_s: for how long it has been there.
    """

    container: ContainerId
    spec: ContainerSpec
    key: ReuseKey | None
    takes_one: bool = False
    held_mib: int | None = None
    age_s: float = 0.0


class Retired(Event, frozen=True):
    """The action was written anew or deleted: no container may serve its old revisions.

    Attributes:
        revision: the one that stays; None when the action is gone.
    """

    action: str
    revision: str | None


class StemsWanted(Event, frozen=True):
    """Keep this many stem cells of this spec ready, until none was taken for a while.

    Attributes:
        count: 0 removes them.
        reactive: how the number follows demand; None: it does not.
    """

    spec: ContainerSpec
    count: int
    reactive: Reactive | None = None


class Measured(Event, frozen=True):
    """So much memory frozen containers really hold.

    Attributes:
        held_mib: by container, MiB, rounded up; those that could not be read are missing.
    """

    held_mib: dict[ContainerId, int]


class FreezingChanged(Event, frozen=True):
    """The node was found to freeze containers, or not to: then they stay warm, and no call is the worse for it."""

    works: bool


class Tick(Event, frozen=True):
    """The time that `Machine.next_wake` asked for has come."""


class Draining(Event, frozen=True):
    """Nothing new is taken any more; what is in flight may still ask for what it needs."""


class Closed(Event, frozen=True):
    """The daemon stops: no more starts, every waiter is told."""


# ---- commands


class Command(msgspec.Struct, frozen=True, gc=False):
    """Something is to be done."""


class Create(Command, frozen=True):
    """Create and start a container, and report `Created` or `CreateFailed`."""

    container: ContainerId
    spec: ContainerSpec


class Exercise(Command, frozen=True):
    """Nobody waits for it: let it serve one empty request, so that it may be frozen. Report as for `Create`."""

    container: ContainerId


class Grant(Command, frozen=True):
    """Hand the container to the activation.

    Attributes:
        needs_init: it has no code yet.
    """

    activation: ActivationId
    container: ContainerId
    start_kind: StartKind
    needs_init: bool


class Reject(Command, frozen=True):
    """Tell the activation that it gets no container."""

    activation: ActivationId
    error: InvokerError


class Freeze(Command, frozen=True):
    """Freeze it and report `FreezeConfirmed` or `FreezeFailed`."""

    container: ContainerId


class Probe(Command, frozen=True):
    """Look whether it is usable and report `Probed`."""

    container: ContainerId


class Measure(Command, frozen=True):
    """Memory is wanted: read what these frozen containers hold and report `Measured`."""

    containers: tuple[ContainerId, ...]


class Remove(Command, frozen=True):
    """Kill and remove it, however long that takes, and report `Removed`."""

    container: ContainerId
