"""What containers hold while nothing runs in them: memory times time, by whose it is. No I/O, no clock of its own."""

from __future__ import annotations

from dataclasses import dataclass

from pool.model import ContainerId, ContainerState

S = ContainerState

#: It stands still.
FROZEN = frozenset({S.FROZEN, S.STEM_FROZEN})
#: Nobody holds it, and it is there for whoever comes.
IDLE = FROZEN | {S.WARM, S.STEM, S.FREEZING, S.SUSPECT, S.ADOPTING}


@dataclass(slots=True, kw_only=True)
class IdleShare:
    """What one container held for one owner, since it was last asked.

    Attributes:
        namespace: whose it is.
        path: of the action it was kept for; empty for a stem cell.
        memory_mib_us: memory reserved for it times time, MiB-microseconds.
        warm_us, frozen_us: for how long it idled, running and standing still, microseconds.
    """

    container: ContainerId
    namespace: str
    path: str
    memory_mib_us: int = 0
    warm_us: int = 0
    frozen_us: int = 0

    def add(self, state: ContainerState, seconds: float, held_mib: int) -> None:
        """Book that it has just been in a state of `IDLE` for so long, with so much memory reserved."""
        microseconds = round(seconds * 1e6)
        self.memory_mib_us += microseconds * held_mib
        if state in FROZEN:
            self.frozen_us += microseconds
        else:
            self.warm_us += microseconds


class IdleMeter:
    """The shares of all containers."""

    def __init__(self) -> None:
        self._shares: dict[tuple[ContainerId, str], IdleShare] = {}

    def of(self, container: ContainerId, namespace: str, path: str) -> IdleShare:
        """Return what a container has held for an action, or as a stem cell, since `take`."""
        share = self._shares.get((container, path))
        if share is None:
            share = self._shares[container, path] = IdleShare(container=container, namespace=namespace, path=path)
        return share

    def take(self) -> list[IdleShare]:
        """Return what was added up, and begin anew."""
        taken, self._shares = list(self._shares.values()), {}
        return taken
