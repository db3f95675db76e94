"""What the daemon does for its own sake, off every call's path: a tiny real invocation, the loop's clock, the watchdog.

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
from invoker.manifest import Manifest
from invoker.systemd import Notifier
from pool.backend import ContainerBackend
from pool.errors import InvokerError, PoolOverloaded, WaitedTooLong
from pool.lease import Lease
from pool.model import ActivationId, ContainerSpec, ContainerState, LogTransport, ReuseKey, StartKind
from pool.pool import Pool

log = logging.getLogger(__name__)

PROBE_ACTION = "invokerd/self-test"
PROBE_CODE = b'{"value":{"name":"self-test","main":"main","binary":false,"code":"def main(args):\\n    return args\\n","env":{}}}'
PROBE_RUN = b'{"activation_id":"%b","deadline":"0","value":{"echo":%d}}'
PROBE_EVERY_S = 15.0
#: The second one comes soon: it finds its container frozen, or something thaws what we freeze.
PROBE_SECOND_S = 1.0
#: Tests that were asked for come no closer to each other than this.
PROBE_PAUSE_S = 1.0
#: Freezing may take this long before it counts as failed; on its own beyond twice the grace.
FREEZE_WITHIN_S = 0.5
PROBE_DEADLINE_S = 10.0
PROBE_MEMORY_MIB = 64
#: A probe older than this says nothing about now. The next one ends sooner, well or not.
PROBE_GOOD_FOR_S = 30.0
#: A daemon whose tests have failed for so long, on an engine that answers, is restarted: the watchdog is fed no more, s.
RESTART_AFTER_S = 90.0
LAG_EVERY_S = 0.5
#: A container that takes longer to go is told of.
REMOVED_WITHIN_S = 60.0
#: Checks without which a node takes work all the same.
WITHOUT_WHICH = frozenset({"freezing", "removals", "state-disk", "engine-disk"})
#: The loop is not well above this, s.
LAG_LIMIT_S = 0.2


class Keeper:
    """Looks after the node. Its loops are run by the daemon's group."""

    def __init__(
        self,
        *,
        pool: Pool,
        notifier: Notifier,
        engine: Callable[[], Check],
        extra_checks: Callable[[], list[Check]],
        on_lag: Callable[[float], None],
    ) -> None:
        """Know nothing yet.

        Args:
            pool: probed.
            notifier: systemd.
            engine: how the engine is.
            extra_checks: what others know of themselves.
            on_lag: told how late the loop was, seconds.
        """
        self._pool = pool
        self._engine = engine
        self._notifier = notifier
        self._extra_checks = extra_checks
        self._on_lag = on_lag
        self._loop = asyncio.get_running_loop()
        self._lag_s = 0.0
        self._probe_at = float("-inf")
        self._probe = Check(name="self-test", ok=False, detail="no test activation has ended yet")
        self._freezing = Check(name="freezing", ok=True, detail="not tested yet")
        self._test_soon = asyncio.Event()
        self.draining = False

    @property
    def freezing_works(self) -> bool:
        """Whether the last self-test found that the kernel freezes containers, and lets them run again."""
        return self._freezing.ok

    def test_soon(self) -> None:
        """A container would not freeze: find out at once whether any does."""
        self._test_soon.set()

    def health(self) -> Health:
        """Tell how the node is."""
        probe = self._probe
        if probe.ok and not self.draining and self._loop.time() - self._probe_at > PROBE_GOOD_FOR_S:
            probe = Check(name="self-test", ok=False, detail=f"no test activation ended within {PROBE_GOOD_FOR_S:.0f} s")
        lag = Check(name="event-loop", ok=self._lag_s < LAG_LIMIT_S, detail=f"{self._lag_s * 1000:.1f} ms late")
        return Health(checks=(probe, self._freezing, self._engine(), self._removals(), lag, *self._extra_checks()))

    def _removals(self) -> Check:
        """Containers that do not go: their memory is lost to the pool until they do."""
        now = self._pool.now()
        stuck = [
            container
            for container in self._pool.containers()
            if container.state is ContainerState.REMOVING and now - container.since > REMOVED_WITHIN_S
        ]
        if not stuck:
            return Check(name="removals", ok=True)
        held_mib = sum(container.held_mib for container in stuck)
        names = ", ".join(container.container_id for container in stuck[:5])
        detail = f"{len(stuck)} containers, {held_mib} MiB, do not go ({names}); the log says why"
        return Check(name="removals", ok=False, detail=detail)

    def ready(self) -> Health:
        """Tell whether the node takes work. It does without what `WITHOUT_WHICH` names."""
        draining = Check(name="not-draining", ok=not self.draining, detail="the daemon is stopping" if self.draining else "")
        return Health(checks=(draining, *(check for check in self.health().checks if check.name not in WITHOUT_WHICH)))

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
            self._pool.thaw_held()
            now = self._loop.time()
            tested = self._probe_at == float("-inf") or now - self._probe_at < RESTART_AFTER_S
            alive = tested or self.draining or not self._engine().ok
            if interval is not None and alive and now - fed_at >= interval / 2:
                fed_at = now
                self._notifier.watchdog()

    async def probe_loop(self, image_id: str, uid: int) -> None:
        """Test the node with a real activation, again and again: it runs, is frozen, thawed, and runs again.

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
                    detail = f"a test activation failed: {str(error) or type(error).__name__}"
                    self._probe = Check(name="self-test", ok=False, detail=detail)
                    log.warning("self-test: %s", detail)
            else:
                self._probe_at = self._loop.time()
                taken_ms = (time.monotonic() - started) * 1000
                self._probe = Check(name="self-test", ok=True, detail=f"a {kind.value} start took {taken_ms:.1f} ms")
                self._judge_freezing(kind, pause_s)
            pause_s = await self._pause(PROBE_SECOND_S if number == 1 else PROBE_EVERY_S)

    async def _pause(self, longest_s: float) -> float:
        """Wait for the next test; return for how long."""
        began = self._loop.time()
        await asyncio.sleep(min(PROBE_PAUSE_S, longest_s))
        try:
            async with asyncio.timeout_at(began + longest_s):
                await self._test_soon.wait()
        except TimeoutError:
            pass
        self._test_soon.clear()
        return self._loop.time() - began

    def _pool_works(self) -> bool:
        """Tell whether activations run: then a test that got no container is no sign of illness."""
        return any(container.leases for container in self._pool.containers())

    def _judge_freezing(self, kind: StartKind, idle_s: float) -> None:
        """Judge by what became of the test's own container while it idled; that it was evicted says nothing."""
        settings = self._pool.machine.settings
        expected = settings.freezing and idle_s >= 2 * settings.freeze_grace_s + FREEZE_WITHIN_S
        if kind is StartKind.WARM and expected and self._freezing.ok:
            log.warning("the self-test's container was not frozen after %.0f s; something may thaw containers", idle_s)

    async def _test_freezing(self, lease: Lease) -> None:
        """Freeze and thaw the test's own container. What is found holds for the node: it freezes, or its containers stay warm."""
        began = time.monotonic()
        try:
            await lease.check_freezing(FREEZE_WITHIN_S)
        except (OSError, TimeoutError) as error:
            why = "it did not come to stand still" if isinstance(error, TimeoutError) else error.strerror or str(error)
            detail = f"containers cannot be frozen ({why}): idle ones stay warm; run invokerd doctor"
            if self._freezing.ok:
                log.error("self-test: %s", detail)  # noqa: TRY400 - the kernel's state, not a bug
            self._freezing = Check(name="freezing", ok=False, detail=detail)
        else:
            taken_ms = (time.monotonic() - began) * 1000
            if not self._freezing.ok or self._freezing.detail == "not tested yet":
                log.info("self-test: containers can be frozen; a freeze and a thaw took %.1f ms", taken_ms)
            self._freezing = Check(name="freezing", ok=True, detail=f"a freeze and a thaw took {taken_ms:.1f} ms")
        self._pool.freezing_works(self._freezing.ok)

    async def _probe_once(self, key: ReuseKey, number: int) -> StartKind:
        activation = ActivationId(secrets.token_hex(16))
        deadline = self._loop.time() + PROBE_DEADLINE_S
        async with self._pool.lease(activation, key, facts=b"{}", deadline=deadline) as lease:
            if lease.needs_init:
                response = await lease.request(b"/init", PROBE_CODE, deadline=deadline, limit=4096)
                if response.status != 200:
                    raise InvokerError(f"/init answered {response.status}: {response.body.decode(errors='replace')}")
                lease.initialised()
            await self._echo(lease, activation, number, deadline)
            await self._test_freezing(lease)
            await self._echo(lease, activation, number, deadline)  # it is as good as before
            lease.clean = True
            return lease.start_kind

    async def _echo(self, lease: Lease, activation: ActivationId, number: int, deadline: float) -> None:
        body = PROBE_RUN % (activation.encode(), number)
        response = await lease.request(b"/run", body, deadline=deadline, limit=4096)
        expected = b'{"echo":%d}' % number
        if response.status != 200 or b"".join(bytes(response.body).split()) != expected:
            raise InvokerError(f"/run answered {response.status}: {response.body.decode(errors='replace')}")


async def find_test_image(manifest: Manifest, backend: ContainerBackend, *, memory_mib: int) -> str | None:
    """Find the image that the self-test runs on, by its id; without it the node says that it is not tested.

    Args:
        manifest: its default Python is taken.
        backend: asked, and nothing is pulled.
        memory_mib: of the pool; no test runs where it would take half of that or more.
    """
    runtimes = manifest.runtimes.values()
    runtime = next((each for each in runtimes if each.family == "python" and each.default), None)
    if runtime is None or memory_mib < 2 * PROBE_MEMORY_MIB:
        return None
    try:
        return (await backend.resolve_image(runtime.image, pull=False)).image_id
    except InvokerError as error:
        log.warning("no self-test: %s; run scripts/images on this node", error)
        return None
