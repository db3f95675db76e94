"""What the daemon does for its own sake, off every call's path: a tiny real invocation, a look at the engine, the watchdog.

Health is what was seen, not what is assumed: the node is ready while a real activation on a frozen container of our
own ended well within the last half minute, and the loop keeps time.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable

from invoker.health import Check, Health
from invoker.systemd import Notifier
from pool.backend import ContainerBackend
from pool.books import EVICTABLE
from pool.errors import InvokerError, PoolOverloaded, WaitedTooLong
from pool.model import ActivationId, ContainerSpec, ContainerState, LogTransport, ReuseKey, StartKind
from pool.pool import Pool

log = logging.getLogger(__name__)

PROBE_ACTION = "invokerd/self-test"
PROBE_CODE = b'{"value":{"name":"self-test","main":"main","binary":false,"code":"def main(args):\\n    return args\\n","env":{}}}'
PROBE_RUN = b'{"activation_id":"%b","deadline":"0","value":{"echo":%d}}'
PROBE_EVERY_S = 15.0
#: The second one comes soon: it finds out whether this node can freeze.
PROBE_SECOND_S = 1.0
#: Freezing may take this long beyond twice the grace before it counts as failed.
FREEZE_WITHIN_S = 0.5
PROBE_DEADLINE_S = 10.0
PROBE_MEMORY_MIB = 64
#: A probe older than this says nothing about now.
PROBE_GOOD_FOR_S = 45.0
RECONCILE_EVERY_S = 60.0
LAG_EVERY_S = 0.5
#: The loop is not well above this, s.
LAG_LIMIT_S = 0.2


class Keeper:
    """Looks after the node. Its loops are run by the daemon's group."""

    def __init__(
        self,
        *,
        pool: Pool,
        backend: ContainerBackend,
        notifier: Notifier,
        extra_checks: Callable[[], list[Check]],
        on_lag: Callable[[float], None],
    ) -> None:
        """Know nothing yet.

        Args:
            pool: probed and reconciled.
            backend: asked what there is.
            notifier: systemd.
            extra_checks: what others know of themselves.
            on_lag: told how late the loop was, seconds.
        """
        self._pool = pool
        self._backend = backend
        self._notifier = notifier
        self._extra_checks = extra_checks
        self._on_lag = on_lag
        self._loop = asyncio.get_running_loop()
        self._lag_s = 0.0
        self._engine = Check(name="engine", ok=True)
        self._probe_at = float("-inf")
        self._probe = Check(name="self-test", ok=False, detail="no test activation has ended yet")
        self._freezing = Check(name="freezing", ok=True)
        self.draining = False
        self.nudged = asyncio.Event()

    @property
    def engine_up(self) -> bool:
        """Whether the engine answered when last asked."""
        return self._engine.ok

    def health(self) -> Health:
        """Tell how the node is."""
        probe = self._probe
        if probe.ok and not self.draining and self._loop.time() - self._probe_at > PROBE_GOOD_FOR_S:
            probe = Check(name="self-test", ok=False, detail=f"no test activation ended within {PROBE_GOOD_FOR_S:.0f} s")
        lag = Check(name="event-loop", ok=self._lag_s < LAG_LIMIT_S, detail=f"{self._lag_s * 1000:.1f} ms late")
        return Health(checks=(probe, self._freezing, self._engine, lag, *self._extra_checks()))

    def ready(self) -> Health:
        """Tell whether the node takes work."""
        draining = Check(name="not-draining", ok=not self.draining, detail="the daemon is stopping" if self.draining else "")
        return Health(checks=(draining, *self.health().checks))

    # ---- loops

    async def watch_loop(self) -> None:
        """Measure how late a timer comes; feed systemd's watchdog while the loop keeps time and the self-test holds.

        The engine is not part of it: without it warm calls go on, and a restart would not mend it. Nor is the self-test
        while the daemon drains: there is none then, and calls that take long are to end.
        """
        interval = self._notifier.watchdog_interval_s
        fed_at = float("-inf")
        while True:
            due = time.monotonic() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self._lag_s = max(0.0, time.monotonic() - due)
            self._on_lag(self._lag_s)
            now = self._loop.time()
            tested = self._probe_at == float("-inf") or now - self._probe_at < 2 * PROBE_GOOD_FOR_S
            alive = tested or self.draining or not self._engine.ok
            if interval is not None and alive and now - fed_at >= interval / 2:
                fed_at = now
                self._notifier.watchdog()

    async def probe_loop(self, image_id: str, uid: int) -> None:
        """Test the node with a real activation, again and again. From the second one on they test freezing, too.

        Args:
            image_id: of the Python runtime.
            uid: nobody's.
        """
        spec = ContainerSpec(
            namespace="invokerd",
            uid=uid,
            gid=uid,
            image=image_id,
            kind="python:3",
            memory_mib=PROBE_MEMORY_MIB,
            tmp_mib=8,
            logs=LogTransport.PIPE,
            server_keep_alive_s=86_400.0,
            environment=(("__OW_LOG_PIPE", "/run/invokerd/log"),),
        )
        key = ReuseKey(spec=spec, action=PROBE_ACTION, revision="1")
        number, pause_s = 0, 0.0
        # A pool that drains refuses the test as it refuses every call: that says nothing about the node.
        while not self.draining:
            number += 1
            started = time.monotonic()
            try:
                kind = await self._probe_once(key, number)
            except (InvokerError, OSError, TimeoutError) as error:
                if self.draining:
                    return
                if isinstance(error, (PoolOverloaded, WaitedTooLong)) and self._pool_works():
                    self._probe_at = self._loop.time()
                    self._probe = Check(name="self-test", ok=True, detail="no room for a test activation: the pool is full")
                else:
                    detail = f"a test activation failed: {error or type(error).__name__}"
                    self._probe = Check(name="self-test", ok=False, detail=detail)
                    log.warning("self-test: %s", detail)
            else:
                self._probe_at = self._loop.time()
                taken_ms = (time.monotonic() - started) * 1000
                self._probe = Check(name="self-test", ok=True, detail=f"a {kind.value} start took {taken_ms:.1f} ms")
                self._judge_freezing(kind, pause_s)
            pause_s = PROBE_SECOND_S if number == 1 else PROBE_EVERY_S
            await asyncio.sleep(pause_s)

    def _pool_works(self) -> bool:
        """Tell whether activations run: then a test that got no container is no sign of illness."""
        return any(container.leases for container in self._pool.containers())

    def _judge_freezing(self, kind: StartKind, idle_s: float) -> None:
        """Judge by what became of the test's own container while it idled; that it was evicted says nothing."""
        settings = self._pool.machine.settings
        if kind is StartKind.FROZEN:
            self._freezing = Check(name="freezing", ok=True)
        elif kind is StartKind.WARM and settings.freezing and idle_s >= 2 * settings.freeze_grace_s + FREEZE_WITHIN_S:
            detail = f"the self-test's container was not frozen after {idle_s:.0f} s: containers stay warm; run invokerd doctor"
            self._freezing = Check(name="freezing", ok=False, detail=detail)
            log.error("%s", detail)

    async def _probe_once(self, key: ReuseKey, number: int) -> StartKind:
        activation = ActivationId(secrets.token_hex(16))
        deadline = self._loop.time() + PROBE_DEADLINE_S
        async with self._pool.lease(activation, key, facts=b"{}", deadline=deadline) as lease:
            if lease.needs_init:
                response = await lease.request(b"/init", PROBE_CODE, deadline=deadline, limit=4096)
                if response.status != 200:
                    raise InvokerError(f"/init answered {response.status}: {response.body.decode(errors='replace')}")
                lease.initialised()
            body = PROBE_RUN % (activation.encode(), number)
            response = await lease.request(b"/run", body, deadline=deadline, limit=4096)
            expected = b'{"echo":%d}' % number
            if response.status != 200 or b"".join(bytes(response.body).split()) != expected:
                raise InvokerError(f"/run answered {response.status}: {response.body.decode(errors='replace')}")
            lease.clean = True
            return lease.start_kind

    async def engine_loop(self) -> None:
        """Ask the engine now and then what there is, and mend what differs. A nudge asks at once."""
        while True:
            try:
                async with asyncio.timeout(RECONCILE_EVERY_S):
                    await self.nudged.wait()
            except TimeoutError:
                pass
            self.nudged.clear()
            await self.reconcile()

    async def reconcile(self) -> None:
        """Compare engine, kernel and books: events are hints only, and `daemon-reload` may have thawed what stood still."""
        try:
            found = await self._backend.list_containers()
        except InvokerError as error:
            self._engine = Check(name="engine", ok=False, detail=f"{error}; warm calls go on, new containers cannot be started")
            log.warning("engine: %s", error)
            return
        self._engine = Check(name="engine", ok=True, detail=f"{len(found)} containers")
        known = {container.container_id: container for container in self._pool.containers()}
        for container in found:
            if container.container_id not in known:
                log.info("%s is nobody's and is removed", container.container_id)
                try:
                    await self._backend.remove(container.container_id, None)
                except InvokerError as error:
                    log.warning("%s could not be removed: %s", container.container_id, error)
        there = {container.container_id for container in found if container.running}
        for container_id, ours in known.items():
            if ours.state in EVICTABLE and container_id not in there:
                self._pool.gone(container_id)
            elif ours.state in {ContainerState.FROZEN, ContainerState.STEM_FROZEN}:
                self._pool.refreeze(container_id)
