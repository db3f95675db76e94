"""Ids of activations: 32 hexadecimal digits that begin with the time."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable

from pool.model import ActivationId

_RANDOM_BITS = 80


class ActivationIds:
    """Makes ids that grow: 48 bits of the wall clock's milliseconds, then random bits.

    They are unique, not secret, so no system call is made for each. That they grow makes the databases append to their
    indexes: with random ids each record would touch, and later write back, a page of its own in every index.
    """

    def __init__(self) -> None:
        self._random_bits: Callable[[int], int] = random.Random(secrets.token_bytes(32)).getrandbits  # noqa: S311
        self._last = 0

    def new(self, wall_s: float) -> ActivationId:
        """Make the next id; larger than all before it, also when the wall clock was set back.

        Args:
            wall_s: seconds since the epoch.
        """
        fresh = int(wall_s * 1000) << _RANDOM_BITS | self._random_bits(_RANDOM_BITS)
        self._last = last = fresh if fresh > self._last else self._last + 1
        return ActivationId(f"{last:032x}")
