"""What containers cost beside activations: what runs on after a reply, memory of idle ones, their lives; and a comparison.

The comparison is of the books with the kernel's own count.
Idle containers are booked every few minutes and at the end, not at each call, which would double the ledger. A daemon that is
killed loses what was not booked yet, in the user's favour; time without a daemon is booked to nobody.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from invoker.cpu_window import CpuWindows
from invoker.model import MIB
from invoker.record.recorder import Recorder
from metrics.observer import Observer
from pool.model import ActivationId, ContainerId
from pool.pool import Pool

log = logging.getLogger(__name__)

#: How often idleness is written into the ledger, s: at most one row for each container and owner.
IDLE_EVERY_S = 300.0
#: How often the books are compared with the kernel, s.
COMPARE_EVERY_S = 60.0
#: The kernel counts in ticks of a scheduler, each reading in microseconds: less than this is no difference, s.
TOLERANCE_S = 1.0


class Bookkeeper:
    """Writes the rows `tail`, `idle` and `container`, and compares. Its loop is run by the daemon's group."""

    def __init__(self, *, recorder: Recorder, observer: Observer, cpu: CpuWindows, is_billed: Callable[[str], bool]) -> None:
        """Book nothing yet.

        Args:
            recorder: of the ledger.
            observer: of the metrics.
            cpu: what namespaces use of the CPU counts there.
            is_billed: whether there is a namespace of this name; the self-test's is none.
        """
        self._recorder = recorder
        self._observer = observer
        self._cpu = cpu
        self._is_billed = is_billed
        #: By how much the books were over the kernel when that was last told, s.
        self._told_s = 0.0

    def lived(self, container: ContainerId, namespace: str, path: str, fact: str, cpu_us: int) -> None:
        """Book that a container was `created` or `removed`. A hook of the pool."""
        if self._is_billed(namespace):
            self._recorder.container(container, namespace, fact, cpu_us=cpu_us, path=path)

    def tail(self, pool: Pool, activation: ActivationId, container: ContainerId, cpu_us: int) -> None:
        """Book CPU time after a reply: it belongs to the activation that replied. A hook of the pool.

        What no row of the ledger says, such as the self-test's, is no tail for the metrics either: nobody pays for it.
        """
        known = pool.machine.books.containers.get(container)
        if known is not None and known.key is not None and self._is_billed(known.spec.namespace):
            self._observer.tail(cpu_us)
            self._cpu.add(known.spec.namespace, cpu_us, time.time_ns() // 1_000_000)
            self._recorder.tail(activation, known.spec.namespace, cpu_us, path=known.key.action)

    def book_idle(self, pool: Pool) -> None:
        """Book what idle containers have held since the last time."""
        for share in pool.take_idle():
            self._observer.idle(share.namespace, share.warm_us, share.frozen_us, share.memory_mib_us)
            if self._is_billed(share.namespace):
                byte_us = share.memory_mib_us * MIB
                self._recorder.idle(share.container, share.namespace, byte_us, path=share.path)

    def compare(self, pool: Pool) -> float:
        """Return the CPU time that containers used and nobody pays, seconds: runtimes starting, stem cells, the self-test.

        Below zero something was booked twice, which is told in the log.
        """
        unbooked_s = (pool.kernel_cpu_us() - self._observer.booked_cpu_us) / 1e6
        if -unbooked_s > self._told_s + TOLERANCE_S:
            self._told_s = -unbooked_s
            log.error("the books have %.2f s of CPU more than the kernel counted: something is booked twice", -unbooked_s)
        return unbooked_s

    async def loop(self, pool: Pool) -> None:
        """Compare each minute and book each five. Never returns."""
        rounds = 0
        while True:
            await asyncio.sleep(COMPARE_EVERY_S)
            rounds += 1
            self.compare(pool)
            if rounds % round(IDLE_EVERY_S / COMPARE_EVERY_S) == 0:
                self.book_idle(pool)
