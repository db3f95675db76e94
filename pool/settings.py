"""Numbers that the pool decides by."""

from __future__ import annotations

from dataclasses import dataclass, field

from pool.keepalive import Blend, Policy

#: More than any machine has.
UNLIMITED_MIB = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Numbers that the machine decides by.

    Attributes:
        memory_mib: the sum of what is reserved for all containers never exceeds it.
        freeze_grace_s: how long an idle container stays runnable. 0 freezes at once.
        freeze_grace_most_s: likewise, where an action's calls usually come again within that; see `grace.grace_s`.
        freezing: false where the self-test found that this node cannot freeze: then warm, never frozen.
        keep_alive_s: how long an idle container is kept at most.
        policy: for how long one is kept, and which goes first when memory is wanted.
        stem_keep_s: how long a user's stem cells are kept after the user's last use of one.
        parallel_starts: creations in flight at the engine, at most; half of that at least. See `launching.StartWidth`.
        max_waiting: activations in the queue; one more is refused.
        max_waiting_per_user: those of one user.
        longest_wait_s: an activation that would have to wait for longer, as far as one can tell, is refused.
        overload_wait_s: likewise, from the first refusal on until nobody waits any more.
        max_containers_per_action: hard cap, whatever waits.
        max_containers_per_user: likewise, stem cells included.
        max_memory_per_user_mib: likewise the sum of their limits, frozen ones in full.
        shares: (pattern of namespaces, weight) in queue and memory; 1 for those that no pattern fits.
        launch_patience_s: a container busy for less than this may soon be free, and is counted on.
        large_request_patience_s: how long smaller activations may overtake one for which no memory is free.
        shrink_frozen: when memory is wanted, reserve for frozen containers only what they really hold.
        frozen_margin_mib: on top of that.
    """

    memory_mib: int
    freeze_grace_s: float = 0.05
    freeze_grace_most_s: float = 0.5
    freezing: bool = True
    keep_alive_s: float = 600.0
    policy: Policy = field(default_factory=lambda: Blend(float("inf")))
    stem_keep_s: float = 600.0
    parallel_starts: int = 4
    max_waiting: int = 10_000
    max_waiting_per_user: int = 10_000
    longest_wait_s: float = float("inf")
    overload_wait_s: float = float("inf")
    max_containers_per_action: int = 1000
    max_containers_per_user: int = 10_000
    max_memory_per_user_mib: int = UNLIMITED_MIB
    shares: tuple[tuple[str, float], ...] = ()
    launch_patience_s: float = 0.1
    large_request_patience_s: float = 5.0
    shrink_frozen: bool = True
    frozen_margin_mib: int = 16
