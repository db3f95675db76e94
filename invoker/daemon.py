"""The composition root: builds each part once, runs them in one task group, and stops them in order.

Start: lock, stores (the journal is replayed), engine, what an earlier daemon left, listeners, READY.
Stop: not ready, refuse, drain to the deadline, cancel, freeze what the next daemon will adopt, flush, close.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from aiohttp import web

from invoker import __version__
from invoker.activation import Activation
from invoker.alarms.provider import build_alarms
from invoker.alone import alone_in_cgroup, alone_on_node
from invoker.bookkeeping import Bookkeeper
from invoker.catalog.builtins import catalog_builtins
from invoker.catalog.deploy import deploy_catalog
from invoker.config.model import Config
from invoker.configured import load_manifest, load_operator_credentials
from invoker.containers import check_wall, open_engine, parent_of, pool_settings
from invoker.control.operations import Operations
from invoker.control.server import serve_control
from invoker.cpu_window import CpuWindows
from invoker.entitlement import resolve_entitled
from invoker.http.admission import Admission
from invoker.http.auth import Authenticator
from invoker.http.front import build_front
from invoker.http.services import Services
from invoker.images import ImageShelf
from invoker.invocation import Builtin
from invoker.invoke import Invoker
from invoker.keeper import Keeper, find_test_image
from invoker.listeners import Listener, listening
from invoker.live_config import LiveConfig
from invoker.manifest import BUILTIN, SEQUENCE, Manifest
from invoker.minute import MinuteFile
from invoker.model import Action, Entity
from invoker.plan import Planner
from invoker.reconcile import Reconciler
from invoker.record.correcting import correct
from invoker.record.rating import rate_activation
from invoker.record.usage import bills, priced_usage
from invoker.recovery import restore_cpu_windows, take_over
from invoker.signals import Signals
from invoker.stores import Stores, open_stores
from invoker.systemd import Notifier
from invoker.triggers import Triggers
from invoker.vault import Vault
from metrics.exposition import BuildInfo, Exposition, Sources, metrics_application
from metrics.observer import Observer
from pool.disk import room_on
from pool.docker import DockerBackend
from pool.errors import InvokerError
from pool.guard import CallClass
from pool.hooks import PoolHooks
from pool.pool import Pool

log = logging.getLogger("invokerd")

#: Whose name the self-test's container runs under.
NOBODY = 65534
#: So many more objects there must be before Python's collector looks for garbage. Its default, 700, are the records of 60 calls
#: on their way to the databases: each such look took as long as a call, and found nothing.
GC_OBJECTS = 10_000
#: The loop's thread gets the interpreter back from the writer's within this time, s: it shows in the p99.
SWITCH_INTERVAL_S = 0.0005
#: The start waits so long for the CPU time that was used before, s.
RESTORE_S = 5.0
#: Freezing what the next daemon will adopt, and flushing: at most so long after the drain, s.
STOP_S = 30.0


async def serve(config: Config, config_path: Path | None = None) -> int:
    """Run the daemon until it is told to stop.

    Args:
        config: checked.
        config_path: read again on SIGHUP; None is where the configuration is by default.

    Returns:
        The process's exit code.

    Raises:
        ConfigError: what only the start can find out.
        StateDirectoryInUse, NodeInUse, EngineError, ...: the start failed.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    signals, notifier = Signals(), Notifier.from_environment()
    live, manifest = LiveConfig.of(config, config_path), load_manifest(config)
    notifier.starting()
    with signals.installed(), _alone(), contextlib.closing(notifier):
        async with open_stores(config) as stores:
            with alone_on_node(config.node, config.engine.url), alone_in_cgroup(parent_of(config)):
                async with open_engine(config, weight_of=live.weight_of) as backend, asyncio.TaskGroup() as group:
                    daemon = Daemon(live, manifest=manifest, stores=stores, backend=backend, notifier=notifier, group=group)
                    async with daemon.running(signals):
                        await signals.drain.wait()
    log.info("stopped: all that was recorded is on the disk")
    return 0


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let an error that is alone in its group out as itself: what the start finds out, such as an address that is taken."""
    try:
        yield
    except ExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None


class Daemon:
    """The parts, and what connects them. No part knows this class."""

    def __init__(
        self,
        live: LiveConfig,
        *,
        manifest: Manifest,
        stores: Stores,
        backend: DockerBackend,
        notifier: Notifier,
        group: asyncio.TaskGroup,
    ) -> None:
        """Build everything; nothing runs yet.

        Args:
            live: the configuration; what a part is given as a value from it needs a restart to change.
            manifest: the kinds.
            stores: open.
            backend: connected.
            notifier: systemd.
            group: everything runs in it.
        """
        config = live.config
        self.live = live
        self.manifest = manifest
        self.stores = stores
        self.backend = backend
        self.notifier = notifier
        self.group = group
        self.observer = Observer()
        self.cpu = CpuWindows(config.limits.cpu_window_s)
        self.bookkeeper = Bookkeeper(
            recorder=stores.recorder,
            observer=self.observer,
            cpu=self.cpu,
            is_billed=lambda namespace: stores.entities.get_namespace(namespace) is not None,
        )
        hooks = PoolHooks(
            transition=self.observer.container_moved,
            tail=lambda *tail: self.bookkeeper.tail(self.pool, *tail),
            late_lines=lambda lines: self.observer.log_lines(late=lines),
            dropped_lines=lambda lines: self.observer.log_lines(dropped=lines),
            repaired=lambda _container: self.observer.repaired(),
            freeze_failed=self._freeze_failed,
            lived=self.bookkeeper.lived,
        )
        backend.guard.on_call = self.observer.engine_call
        stores.recorder.on_journal_write(self.observer.journal_write)
        self.pool = Pool(backend, pool_settings(config.pool), node=config.node, group=group, table=stores.table, hooks=hooks)
        self.planner = Planner(config=lambda: live.config, manifest=manifest, backend=backend, code=stores.code)
        self.vault = Vault(stores.parameter_key, seals_all=lambda: live.config.store.encrypt_parameters)
        #: What the daemon carries out itself, by full path of the action.
        self.builtins: dict[str, Builtin] = {}
        self.invoker = Invoker(
            vault=self.vault,
            pool=self.pool,
            planner=self.planner,
            recorder=stores.recorder,
            code=stores.entities.code,
            group=group,
            node=config.node,
            max_wait_s=lambda: live.config.pool.max_wait_s,
            result_bytes=lambda: live.config.limits.result_bytes,
            on_finished=self._observe,
            on_throttled=self.observer.throttled,
            resolve=lambda identity, path: resolve_entitled(stores.entities, identity, path),
            builtins=self.builtins,
        )
        self.admission = Admission(lambda: live.config.limits, self.observer.throttled, self.cpu)
        self.triggers = Triggers(
            entities=stores.entities,
            admission=self.admission,
            manifest=manifest,
            invoker=self.invoker,
            recorder=stores.recorder,
            vault=self.vault,
            node=config.node,
            wall_clock=time.time,
        )
        self.images = ImageShelf(
            config.state_dir / "images.json",
            backend=backend,
            room=lambda: room_on(backend.facts.root_dir),
            in_use=lambda: {container.spec.image for container in self.pool.containers()},
            on_removed=self.planner.forget,
        )
        backend.images.on_pulled = self.images.pulled
        self.reconciler = Reconciler(
            pool=self.pool,
            backend=backend,
            sick=lambda: [kind.value for kind in backend.guard.sick_classes()],
            then=self._look_after,
        )
        backend.guard.on_sick = self.reconciler.nudge
        if backend.wall is not None:
            backend.wall.on_hit = self.pool.overflowed
        self.keeper = Keeper(
            pool=self.pool,
            notifier=notifier,
            engine=self.reconciler.check,
            extra_checks=lambda: [*stores.checks(), self.images.check(), check_wall(backend.wall)],
            on_lag=self.observer.loop_lag,
        )
        self.authenticator = Authenticator(stores.entities, stores.pepper)
        self.alarms, builtins = build_alarms(
            stores, admission=self.admission, triggers=self.triggers, authenticator=self.authenticator
        )
        self.builtins |= builtins | catalog_builtins(lambda: live.config.http.url)
        self.minute = MinuteFile(config.state_dir / "minute.json", self.admission)
        self.operations = Operations(
            config=lambda: live.config,
            entities=stores.entities,
            authenticator=self.authenticator,
            pool=self.pool,
            invoker=self.invoker,
            usage=lambda namespace, since, until, by_action: priced_usage(
                stores.recorder.records, live.prices, namespace, since, until, by_action=by_action
            ),
            bill=lambda namespace, month: bills(stores.recorder.records, live.prices, namespace, month),
            correct=lambda wanted: correct(config.state_dir / "ledger", stores.recorder.correction, wanted),
            health=self.keeper.health,
            drain=self._refuse,
            on_deleted=self._forget_namespace,
            on_changed=self.planner.forget,
            kinds=self.manifest.kinds,
        )
        self.front = build_front(self._services(), group)
        hooks.serve = self.front.serve_container
        self._bug: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def running(self, signals: Signals) -> AsyncIterator[None]:
        """Serve while the block runs; after it, stop in order."""
        asyncio.get_running_loop().set_exception_handler(self._on_loop_error)
        stores, config = self.stores, self.live.config
        if config.runtimes.catalog:
            await self._deploy_catalog()
        stores.entities.on_change(self._on_entity)
        restoring = self.group.create_task(self._restore_cpu(), name="restore the CPU windows")
        await take_over(
            stores,
            backend=self.backend,
            planner=self.planner,
            pool=self.pool,
            invoker=self.invoker,
            authenticator=self.authenticator,
            vault=self.vault,
        )
        # With many millions of records they come later.
        await asyncio.wait({restoring}, timeout=RESTORE_S)
        loops = [
            restoring,
            self.group.create_task(self.keeper.watch_loop(), name="watch the loop"),
            self.group.create_task(self.reconciler.loop(), name="look at the engine"),
            self.group.create_task(self.backend.watch_events(self.reconciler.nudge), name="engine events"),
            self.group.create_task(self._reload_loop(signals), name="reload"),
            self.group.create_task(self.bookkeeper.loop(self.pool), name="book what idles"),
            self.group.create_task(self._raise_bugs(), name="bugs"),
        ]
        if image := await find_test_image(self.manifest, self.backend, memory_mib=config.pool.memory_mib):
            loops.append(self.group.create_task(self.keeper.probe_loop(image, NOBODY), name="self-test"))
        async with AsyncExitStack() as listeners:
            await listeners.enter_async_context(self.minute.kept(self.group))
            await listeners.enter_async_context(serve_control(self.operations, config.control_socket))
            api = Listener(name="http", runner=web.ServerRunner(self.front), address=config.http.listen)
            metrics = Listener(name="metrics", runner=self._metrics_runner(), address=config.metrics.listen)
            await listeners.enter_async_context(listening(api, metrics, backlog=config.http.backlog))
            gc.collect()
            gc.freeze()  # what is here stays: the collector need not walk it again, which shows in the p99
            gc.set_threshold(GC_OBJECTS, *gc.get_threshold()[1:])
            self.notifier.ready(f"serving on {api.place}")
            log.info("ready: serving on %s, metrics on %s", api.place, metrics.place)
            ticking = self.group.create_task(self.alarms.run(), name="alarms")
            yield
            self.notifier.stopping("draining")
            self.notifier.extend_timeout(config.http.drain_s + STOP_S)
            ticking.cancel()
            await self._drain(signals)
        self.bookkeeper.book_idle(self.pool)
        await self.pool.close()
        for task in loops:
            task.cancel()

    # ---- at the start

    async def _deploy_catalog(self) -> None:
        """Install the packages of `whisk.system`. Before anybody is told of entities: nobody runs as that namespace."""

        def make_key() -> tuple[str, str]:
            uuid, key = self.authenticator.make_key()
            return uuid, self.authenticator.hash_key(key)

        now_ms = time.time_ns() // 1_000_000
        changed = await deploy_catalog(self.stores.entities, self.manifest, make_key=make_key, now_ms=now_ms)
        if changed:
            log.info("the catalog of whisk.system: %d entities were renewed", changed)

    async def _restore_cpu(self) -> None:
        await restore_cpu_windows(
            self.cpu,
            self.stores.recorder.records,
            namespaces=self.stores.entities,
            longest_ms=2 * self.live.config.limits.timeout_max_ms,  # init and run
        )

    def _services(self) -> Services:
        live = self.live
        return Services(
            authenticator=self.authenticator,
            admission=self.admission,
            manifest=self.manifest,
            entities=self.stores.entities,
            vault=self.vault,
            activations=self.stores.recorder.records,
            apis=self.stores.apis,
            invoker=self.invoker,
            triggers=self.triggers,
            limits=lambda: live.config.limits,
            price=lambda activation: rate_activation(activation, live.prices),
            health=self.keeper.health,
            ready=self.keeper.ready,
            wall_clock=time.time,
            public_url=live.config.http.url,
            build=_build_date(),
            build_number=__version__,
            operator_credentials=load_operator_credentials(live.config),
            disable=self.operations.drain,
            on_refused=self.observer.refused,
        )

    def _metrics_runner(self) -> web.AppRunner:
        recorder = self.stores.recorder
        sources = Sources(
            pool=self.pool.statistics,
            in_flight=lambda: self.invoker.total_in_flight,
            recorder_lag_s=lambda: recorder.lag().seconds,
            recorder_backlog=lambda: recorder.lag().rows,
            engine_up=lambda: self.reconciler.engine_up,
            engine_sick=lambda: {kind.value: kind in self.backend.guard.sick_classes() for kind in CallClass},
            kernel_cpu_us=self.pool.kernel_cpu_us,
            freezing_works=lambda: self.keeper.freezing_works,
            damaged_rows=self.stores.damage.counts,
            cpu_window_us=self.cpu.all_used_us,
        )
        facts = self.backend.facts
        build = BuildInfo(version=__version__, revision="", engine=facts.api_version, cgroup=f"v{facts.cgroup_version}")
        return web.AppRunner(metrics_application(Exposition(self.observer, sources, build)), access_log=None)

    # ---- at the end

    async def _drain(self, signals: Signals) -> None:
        """Refuse new work, let what is in flight end; when the time is up, or on a second signal, cancel it."""
        self._refuse()
        log.info("draining: %d activations are in flight", self.invoker.total_in_flight)
        async with asyncio.TaskGroup() as group:
            hurry = group.create_task(signals.hurry.wait(), name="hurry")
            drained = group.create_task(self.invoker.wait_idle(), name="drain")
            limit_s = self.live.config.http.drain_s
            await asyncio.wait({hurry, drained}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            if not drained.done():
                log.warning("%d activations did not end in time and are cancelled", self.invoker.total_in_flight)
                self.invoker.cancel_all()

    def _refuse(self) -> None:
        self.keeper.draining = True
        self.invoker.refuse()

    # ---- while it runs

    async def _reload_loop(self, signals: Signals) -> None:
        while True:
            await signals.wait_reload()
            self.notifier.reloading()
            if self.live.reload():
                self.planner.forget()
                self.pool.change_settings(replace(self.pool.machine.settings, shares=self.live.config.pool.weights()))
                self.cpu.resize(self.live.config.limits.cpu_window_s)
            self.notifier.ready()
            await self.backend.weigh_anew()

    def _on_entity(self, before: Entity | None, after: Entity | None) -> None:
        """An action was written or deleted: no old container serves it, and its image is looked for now, not in a call."""
        if isinstance(before, Action):
            self.pool.retire(before.full_path, revision=after.revision if isinstance(after, Action) else None)
            if after is None:
                self.observer.forget_action(before.full_path)
        if isinstance(after, Action) and after.exec.kind not in {SEQUENCE, BUILTIN}:
            self.group.create_task(self._prepare(after), name=f"prepare {after.full_path}")

    async def _prepare(self, action: Action) -> None:
        namespace = self.stores.entities.get_namespace(action.namespace)
        if namespace is None:
            return
        try:
            plan = await self.planner.make(namespace, action)
        except InvokerError as error:
            log.info("%s is not ready to run yet: %s", action.full_path, error)
            return
        if plan.stems:
            self.pool.want_stems(plan.key.spec, plan.stems, plan.reactive)

    def _forget_namespace(self, name: str) -> None:
        self.observer.forget_namespace(name)
        self.cpu.forget(name)

    async def _look_after(self) -> None:
        """What is to be done now and then, after each look at an engine that answers."""
        await self.images.sweep()
        if self.backend.wall is not None:
            await self.backend.wall.keep()

    def _freeze_failed(self) -> None:
        self.observer.freeze_failed()
        self.keeper.test_soon()

    def _observe(self, activation: Activation) -> None:
        meter = activation.meter
        self.cpu.add(activation.namespace, meter.cpu_us, activation.end_ms)
        self.observer.activation_finished(
            namespace=activation.namespace,
            action=activation.path,
            start=meter.start_kind,
            outcome=meter.outcome,
            status=int(activation.status),
            phases_us=msgspec.structs.astuple(meter.phases),
            cpu_us=meter.cpu_us,
            billed_us=meter.billed_us,
            memory_limit_mib=meter.memory_limit_mib,
            oom_kills=meter.oom_kills,
        )

    async def _raise_bugs(self) -> None:
        """A bug in a callback brings the daemon down: systemd starts it again, and start-up settles what it left."""
        await self._bug

    def _on_loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        log.error("%s", context.get("message"), exc_info=error if isinstance(error, BaseException) else None)
        if "handle" in context and isinstance(error, Exception) and not self._bug.done():
            self._bug.set_exception(error)


def _build_date() -> str:
    """When this version of the package was installed, ISO 8601: what clients show as the build."""
    return datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC).isoformat(timespec="seconds")
