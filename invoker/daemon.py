"""The composition root: builds each part once, runs them in one task group, and stops them in order.

Start: lock, stores (the journal is replayed), engine, what an earlier daemon left, listeners, READY.
Stop: not ready, refuse, drain to the deadline, cancel, freeze what the next daemon will adopt, flush, close.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from socket import socket

import msgspec
from aiohttp import web
from aiohttp.web_runner import BaseRunner

from invoker import __version__
from invoker.alarms.provider import build_alarms
from invoker.alone import alone_on_node
from invoker.bookkeeping import Bookkeeper
from invoker.catalog.builtins import catalog_builtins
from invoker.catalog.deploy import deploy_catalog
from invoker.config.load import load
from invoker.config.model import Address, Config, ConfigError, reloadable_changes
from invoker.configured import load_manifest, load_operator_credentials, load_prices
from invoker.control.operations import Operations
from invoker.control.server import serve_control
from invoker.entitlement import resolve_entitled
from invoker.health import Check
from invoker.http.admission import Admission
from invoker.http.auth import Authenticator
from invoker.http.front import build_front
from invoker.http.services import Services
from invoker.images import ImageShelf
from invoker.invocation import Builtin
from invoker.invoke import Invoker
from invoker.keeper import PROBE_MEMORY_MIB, Keeper
from invoker.manifest import BUILTIN, SEQUENCE, Manifest
from invoker.minute import MinuteFile
from invoker.model import Action, Activation, Entity
from invoker.plan import Planner
from invoker.reconcile import Reconciler
from invoker.record.correcting import correct
from invoker.record.rating import Prices, rate_activation
from invoker.record.usage import bills, priced_usage
from invoker.recovery import take_over
from invoker.signals import Signals
from invoker.stores import Stores, boot_id, open_stores
from invoker.systemd import Notifier, inherited_sockets
from invoker.triggers import Triggers
from invoker.vault import Vault
from metrics.exposition import BuildInfo, Exposition, Sources, metrics_application
from metrics.observer import Observer
from pool.disk import room_on
from pool.docker import DockerBackend
from pool.errors import InvokerError
from pool.guard import CallClass, Deadlines
from pool.keepalive import POLICIES
from pool.model import ActivationId, ContainerId
from pool.parent import NoParentCgroup, prepare_parent
from pool.pool import Pool, PoolHooks
from pool.settings import PoolSettings

log = logging.getLogger("invokerd")

#: Whose name the self-test's container runs under.
NOBODY = 65534
#: The loop's thread gets the interpreter back from the writer's within this time, s: it shows in the p99.
SWITCH_INTERVAL_S = 0.0005


async def serve(config: Config, config_path: Path | None = None) -> int:
    """Run the daemon until it is told to stop.

    Args:
        config: checked.
        config_path: read again on SIGHUP; None means there is nothing to read.

    Returns:
        The process's exit code.

    Raises:
        ConfigError: what only the start can find out.
        StateDirectoryInUse, NodeInUse, EngineError, ...: the start failed.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    signals, notifier = Signals(), Notifier.from_environment()
    prices, manifest = load_prices(config), load_manifest(config)
    with signals.installed(), _alone():
        async with open_stores(config) as stores:
            with alone_on_node(config.node, config.engine.url):
                async with _open_engine(config) as backend, asyncio.TaskGroup() as group:
                    daemon = Daemon(
                        config, prices=prices, manifest=manifest, stores=stores, backend=backend, notifier=notifier, group=group
                    )
                    async with daemon.running(config_path, signals):
                        await signals.drain.wait()
    notifier.close()
    return 0


@contextmanager
def _alone() -> Iterator[None]:
    """Let an error that is alone in its group out as itself: what the start finds out, such as an address that is taken."""
    try:
        yield
    except ExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        raise group.exceptions[0] from None


@asynccontextmanager
async def _open_engine(config: Config) -> AsyncIterator[DockerBackend]:
    run_dir = config.state_dir / "containers"
    engine = config.engine
    deadlines = Deadlines(
        create_s=engine.create_deadline_s,
        remove_s=engine.remove_deadline_s,
        read_s=engine.read_deadline_s,
        pull_s=engine.pull_deadline_s,
    )
    backend = await DockerBackend.open(engine.url, node=config.node, boot_id=boot_id(), run_dir=run_dir, deadlines=deadlines)
    try:
        if config.pool.cgroup_parent:
            backend.use_cgroup_parent(await asyncio.to_thread(_make_parent, config, backend.facts.cgroup_driver))
        yield backend
    finally:
        await backend.close()


def _make_parent(config: Config, driver: str) -> str:
    try:
        return prepare_parent(config.pool.cgroup_parent, driver=driver, memory_mib=config.pool.memory_mib)
    except NoParentCgroup as error:
        raise ConfigError([f"pool.cgroup_parent = {config.pool.cgroup_parent}: {error}"]) from error


class Daemon:
    """The parts, and what connects them. No part knows this class."""

    def __init__(
        self,
        config: Config,
        *,
        prices: Prices,
        manifest: Manifest,
        stores: Stores,
        backend: DockerBackend,
        notifier: Notifier,
        group: asyncio.TaskGroup,
    ) -> None:
        """Build everything; nothing runs yet.

        Args:
            config: replaced by a reload.
            prices: likewise.
            manifest: the kinds.
            stores: open.
            backend: connected.
            notifier: systemd.
            group: everything runs in it.
        """
        self.config = config
        self.prices = prices
        self.manifest = manifest
        self.stores = stores
        self.backend = backend
        self.notifier = notifier
        self.group = group
        self.observer = Observer()
        self.bookkeeper = Bookkeeper(
            recorder=stores.recorder,
            observer=self.observer,
            is_billed=lambda namespace: stores.entities.get_namespace(namespace) is not None,
        )
        hooks = PoolHooks(
            transition=self.observer.container_moved,
            tail=self._book_tail,
            late_lines=lambda lines: self.observer.log_lines(late=lines),
            dropped_lines=lambda lines: self.observer.log_lines(dropped=lines),
            repaired=lambda _container: self.observer.repaired(),
            freeze_failed=self._freeze_failed,
            lived=self.bookkeeper.lived,
        )
        backend.guard.on_call = self.observer.engine_call
        stores.recorder.on_journal_write(self.observer.journal_write)
        self.pool = Pool(backend, _pool_settings(config), node=config.node, group=group, table=stores.table, hooks=hooks)
        self.planner = Planner(config=lambda: self.config, manifest=manifest, backend=backend, code=stores.code)
        self.vault = Vault(stores.parameter_key, seals_all=lambda: self.config.store.encrypt_parameters)
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
            max_wait_s=lambda: self.config.pool.max_wait_s,
            result_bytes=lambda: self.config.limits.result_bytes,
            on_finished=self._observe,
            on_throttled=self.observer.throttled,
            resolve=lambda identity, path: resolve_entitled(stores.entities, identity, path),
            builtins=self.builtins,
        )
        self.admission = Admission(lambda: self.config.limits, self.observer.throttled)
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
            then=self.images.sweep,
        )
        backend.guard.on_sick = self.reconciler.nudge
        self.keeper = Keeper(
            pool=self.pool,
            notifier=notifier,
            engine=self.reconciler.check,
            extra_checks=self._check_stores,
            on_lag=self.observer.loop_lag,
        )
        self.authenticator = Authenticator(stores.entities, stores.pepper)
        self.alarms, builtins = build_alarms(
            stores, admission=self.admission, triggers=self.triggers, authenticator=self.authenticator
        )
        self.builtins |= builtins | catalog_builtins(lambda: self.config.http.url)
        self.minute = MinuteFile(config.state_dir / "minute.json", self.admission)
        self.operations = Operations(
            config=lambda: self.config,
            entities=stores.entities,
            authenticator=self.authenticator,
            pool=self.pool,
            invoker=self.invoker,
            usage=lambda namespace, since, until, by_action: priced_usage(
                stores.recorder, self.prices, namespace, since, until, by_action=by_action
            ),
            bill=lambda namespace, month: bills(stores.recorder, self.prices, namespace, month),
            correct=lambda wanted: correct(config.state_dir / "ledger", stores.recorder.correction, wanted),
            health=self.keeper.health,
            drain=self._refuse,
            on_deleted=self.observer.forget_namespace,
        )
        self.front = build_front(self._services(), group)
        hooks.serve = self.front.serve_container
        self._bug: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def running(self, config_path: Path | None, signals: Signals) -> AsyncIterator[None]:
        """Serve while the block runs; after it, stop in order."""
        asyncio.get_running_loop().set_exception_handler(self._on_loop_error)
        stores = self.stores
        if self.config.runtimes.catalog:
            await self._deploy_catalog()
        stores.entities.on_change(self._on_entity)
        await take_over(
            stores,
            backend=self.backend,
            planner=self.planner,
            pool=self.pool,
            invoker=self.invoker,
            authenticator=self.authenticator,
            vault=self.vault,
        )
        loops = [
            self.group.create_task(self.keeper.watch_loop(), name="watch the loop"),
            self.group.create_task(self.reconciler.loop(), name="look at the engine"),
            self.group.create_task(self.backend.watch_events(self.reconciler.nudge), name="engine events"),
            self.group.create_task(self._reload_loop(config_path, signals), name="reload"),
            self.group.create_task(self.bookkeeper.loop(self.pool), name="book what idles"),
            self.group.create_task(self._raise_bugs(), name="bugs"),
        ]
        if image := await self._find_probe_image():
            loops.append(self.group.create_task(self.keeper.probe_loop(image, NOBODY), name="self-test"))
        async with AsyncExitStack() as listeners:
            await listeners.enter_async_context(self.minute.kept(self.group))
            await listeners.enter_async_context(serve_control(self.operations, self.config.control_socket))
            await self._listen(listeners)
            gc.collect()
            gc.freeze()  # what is here stays: the collector need not walk it again, which shows in the p99
            self.notifier.ready(f"serving on {self.config.http.listen}")
            log.info("ready: serving on %s, metrics on %s", self.config.http.listen, self.config.metrics.listen)
            ticking = self.group.create_task(self.alarms.run(), name="alarms")
            yield
            self.notifier.stopping("draining")
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

    async def _listen(self, stack: AsyncExitStack) -> None:
        """Open the listeners; sockets that systemd passed go before the configured addresses."""
        inherited = {passed.name: passed.socket for passed in inherited_sockets()}
        metrics = web.AppRunner(metrics_application(self._exposition()), access_log=None)
        api = web.ServerRunner(self.front)
        listen = {"http": (api, self.config.http.listen), "metrics": (metrics, self.config.metrics.listen)}
        for name, (runner, address) in listen.items():
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await self._open_site(name, runner, address, inherited)

    async def _open_site(self, name: str, runner: BaseRunner, address: Address, inherited: Mapping[str, socket]) -> None:
        passed, backlog = inherited.get(name), self.config.http.backlog
        try:
            if passed is not None:
                await web.SockSite(runner, passed, backlog=backlog).start()
            else:
                await web.TCPSite(runner, address.host, address.port, backlog=backlog).start()
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError([f"{name}.listen = {address}: {reason}; choose another address, or end who has it"]) from error

    def _services(self) -> Services:
        return Services(
            authenticator=self.authenticator,
            admission=self.admission,
            manifest=self.manifest,
            entities=self.stores.entities,
            vault=self.vault,
            activations=self.stores.recorder,
            apis=self.stores.apis,
            invoker=self.invoker,
            triggers=self.triggers,
            limits=lambda: self.config.limits,
            price=lambda activation: rate_activation(activation, self.prices),
            health=self.keeper.health,
            ready=self.keeper.ready,
            wall_clock=time.time,
            public_url=self.config.http.url,
            build=_build_date(),
            build_number=__version__,
            operator_credentials=load_operator_credentials(self.config),
            disable=self.operations.drain,
            on_refused=self.observer.refused,
        )

    def _exposition(self) -> Exposition:
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
        )
        facts = self.backend.facts
        build = BuildInfo(version=__version__, revision="", engine=facts.api_version, cgroup=f"v{facts.cgroup_version}")
        return Exposition(self.observer, sources, build)

    async def _find_probe_image(self) -> str | None:
        """Find the image that the self-test runs on; without it the node says that it is not tested."""
        runtimes = self.manifest.runtimes.values()
        runtime = next((each for each in runtimes if each.family == "python" and each.default), None)
        if runtime is None or self.config.pool.memory_mib < 2 * PROBE_MEMORY_MIB:
            return None
        try:
            return (await self.backend.resolve_image(runtime.image, pull=False)).image_id
        except InvokerError as error:
            log.warning("no self-test: %s; run scripts/images on this node", error)
            return None

    # ---- at the end

    async def _drain(self, signals: Signals) -> None:
        """Refuse new work, let what is in flight end; when the time is up, or on a second signal, cancel it."""
        self._refuse()
        log.info("draining: %d activations are in flight", self.invoker.total_in_flight)
        async with asyncio.TaskGroup() as group:
            hurry = group.create_task(signals.hurry.wait(), name="hurry")
            drained = group.create_task(self.invoker.wait_idle(), name="drain")
            limit_s = self.config.http.drain_s
            await asyncio.wait({hurry, drained}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            if not drained.done():
                log.warning("%d activations did not end in time and are cancelled", self.invoker.total_in_flight)
                self.invoker.cancel_all()

    def _refuse(self) -> None:
        self.keeper.draining = True
        self.invoker.refuse()

    # ---- while it runs

    async def _reload_loop(self, config_path: Path | None, signals: Signals) -> None:
        """On SIGHUP take over what may change; a bad file changes nothing."""
        while True:
            await signals.wait_reload()
            self.notifier.reloading()
            try:
                reload = reloadable_changes(self.config, load(config_path).config)
                prices = load_prices(reload.config)
            except ConfigError as error:
                log.error("reload: the old configuration stays: %s", error)  # noqa: TRY400 - the file's fault, not a bug
            else:
                applied = list(reload.applied)
                if prices.plans != self.prices.plans:
                    applied.append(f"price plans {', '.join(plan.name for plan in prices.plans)}")
                self.config, self.prices = reload.config, prices
                logging.getLogger().setLevel(reload.config.log.level.upper())
                self.planner.forget()
                log.info("reload: applied: %s", ", ".join(applied) or "nothing, for nothing that a reload applies has changed")
                if reload.needs_restart:
                    log.warning("reload: these need a restart: %s", ", ".join(reload.needs_restart))
            self.notifier.ready()

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

    def _book_tail(self, activation: ActivationId, container: ContainerId, cpu_us: int) -> None:
        """CPU time after a reply belongs to the activation that replied."""
        known = self.pool.machine.books.containers.get(container)
        self.observer.tail(cpu_us)
        if known is not None and known.key is not None and self.stores.entities.get_namespace(known.spec.namespace):
            self.stores.recorder.tail(activation, known.spec.namespace, cpu_us, path=known.key.action)

    def _freeze_failed(self) -> None:
        self.observer.freeze_failed()
        self.keeper.test_soon()

    def _observe(self, activation: Activation) -> None:
        meter = activation.meter
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

    def _check_stores(self) -> list[Check]:
        recorder, damage = self.stores.recorder, self.stores.damage
        lag, room, failure = recorder.lag(), recorder.room(), recorder.failure
        full = "" if room or failure else "no room: new work is refused; free space on the disk of state_dir"
        behind = f"{lag.rows} records, {lag.seconds:.1f} s behind"
        stopped = f"nothing more is written and new work is refused; the journal keeps what was recorded: {failure}"
        damage.look()  # the writer's process finds some
        return [
            Check(name="journal", ok=not full, detail=full),
            Check(name="ledger", ok=lag.seconds < 30 and not failure, detail=stopped if failure else behind),
            Check(name="databases", ok=True, detail=damage.summary() or "every row can be read"),
        ]

    async def _raise_bugs(self) -> None:
        """A bug in a callback brings the daemon down: systemd starts it again, and start-up settles what it left."""
        await self._bug

    def _on_loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        log.error("%s", context.get("message"), exc_info=error if isinstance(error, BaseException) else None)
        if "handle" in context and isinstance(error, Exception) and not self._bug.done():
            self._bug.set_exception(error)


def _pool_settings(config: Config) -> PoolSettings:
    pool = config.pool
    return PoolSettings(
        memory_mib=pool.memory_mib,
        freeze_grace_s=pool.freeze_grace_s,
        freeze_grace_most_s=pool.freeze_grace_most_s,
        keep_alive_s=pool.keep_alive_s,
        policy=POLICIES[pool.keep_alive_policy](pool.keep_alive_s),
        stem_keep_s=pool.stem_cells.keep_s,
        parallel_starts=pool.parallel_starts,
        max_waiting=pool.max_waiting,
        max_waiting_per_user=pool.max_waiting_per_user,
        longest_wait_s=pool.max_wait_s / 2,  # what is expected is an average: it may take twice as long
        overload_wait_s=pool.overload_wait_s,
        max_containers_per_action=pool.max_containers_per_action,
        max_containers_per_user=pool.max_containers_per_user,
        shares=pool.weights(),
        shrink_frozen=pool.shrink_frozen,
        frozen_margin_mib=pool.frozen_margin_mib,
    )


def _build_date() -> str:
    """When this version of the package was installed, ISO 8601: what clients show as the build."""
    return datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC).isoformat(timespec="seconds")
