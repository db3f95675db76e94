"""The composition root: builds each part once, runs them in one task group, and stops them in order.

Start: lock, stores (the journal is replayed), engine, adoption, what was accepted and not begun, listeners, READY.
Stop: not ready, refuse, drain to the deadline, cancel, freeze what the next daemon will adopt, flush, close.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from aiohttp import web

from invoker import __version__
from invoker.activations import Retention
from invoker.admission import Admission
from invoker.adoption import adopt_or_remove, lost_activations
from invoker.api import build_server
from invoker.auth import Authenticator
from invoker.code import CodeStore
from invoker.config import Config, ConfigError, reloadable_changes
from invoker.config_load import load
from invoker.control import serve_control
from invoker.entities import EntityStore
from invoker.health import Check
from invoker.invocation import Call
from invoker.invoke import Invoker
from invoker.keeper import PROBE_MEMORY_MIB, Keeper
from invoker.manifest import Manifest
from invoker.model import Accepted, Action, Activation, Entity, Identity
from invoker.operations import Operations
from invoker.plan import Facts, Planner, facts_of
from invoker.rating import BadPrices, Prices, rate_activation
from invoker.recorder import Recorder
from invoker.services import Services
from invoker.signals import Signals
from invoker.systemd import Notifier, inherited_sockets
from invoker.usage import priced_usage
from metrics.exposition import BuildInfo, Exposition, Sources, metrics_application
from metrics.observer import Observer
from pool.docker import DockerBackend
from pool.errors import InvokerError, PlatformError
from pool.machine import PoolSettings
from pool.model import ActivationId, ContainerId
from pool.pool import Pool, PoolHooks
from pool.table import ContainerTable

log = logging.getLogger("invokerd")

#: Whose name the self-test's container runs under.
NOBODY = 65534


class StateDirectoryInUse(PlatformError):
    """Another daemon uses this state directory."""

    code = "state-directory-in-use"


@dataclass(slots=True)
class Current:
    """The configuration of this moment: the one thing that a reload replaces."""

    config: Config
    prices: Prices


async def serve(config: Config, config_path: Path | None = None) -> int:
    """Run the daemon until it is told to stop.

    Args:
        config: checked.
        config_path: read again on SIGHUP; None means there is nothing to read.

    Returns:
        The process's exit code.

    Raises:
        ConfigError: what only the start can find out.
        StateDirectoryInUse, EngineError, ...: the start failed.
    """
    signals, notifier = Signals(), Notifier.from_environment()
    with signals.installed():
        async with _stores(config) as stores, _engine(config) as backend:
            await _serve(Current(config, _prices(config)), config_path, signals, notifier, stores, backend)
    notifier.close()
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """What is on the disk."""

    entities: EntityStore
    recorder: Recorder
    table: ContainerTable
    code: CodeStore
    pepper: bytes


@asynccontextmanager
async def _stores(config: Config) -> AsyncIterator[Stores]:
    """Lock the state directory and open all that is in it; the journal is replayed."""
    directory = config.state_dir
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        stack.callback(os.close, _lock(directory / "lock"))
        log.info("SQLite %s", sqlite3.sqlite_version)
        store = config.store
        entities = await EntityStore.open(directory / "entities.db", directory / "code")
        stack.push_async_callback(entities.close)
        recorder = await Recorder.open(
            directory,
            node=config.node,
            segment_bytes=store.journal_segment_bytes,
            retention=Retention(
                records_s=store.keep_activations_s,
                records_bytes=store.keep_activations_bytes,
                results_s=store.keep_results_s,
                results_bytes=store.keep_results_bytes,
                logs_s=store.keep_logs_s,
                logs_bytes=store.keep_logs_bytes,
            ),
        )
        stack.push_async_callback(recorder.close)
        table = ContainerTable.open(directory / "containers.table", _boot_id())
        stack.callback(table.close)
        if table.emptied_because:
            log.info("container table: %s", table.emptied_because)
        code = CodeStore(directory / "unpacked", entities.code.read_blocking)
        stack.callback(code.close)
        yield Stores(entities=entities, recorder=recorder, table=table, code=code, pepper=_pepper(directory / "pepper"))


@asynccontextmanager
async def _engine(config: Config) -> AsyncIterator[DockerBackend]:
    backend = await DockerBackend.open(
        config.engine.url, node=config.node, boot_id=_boot_id(), run_dir=config.state_dir / "containers"
    )
    try:
        yield backend
    finally:
        await backend.close()


async def _serve(
    current: Current,
    config_path: Path | None,
    signals: Signals,
    notifier: Notifier,
    stores: Stores,
    backend: DockerBackend,
) -> None:
    """Compose the parts, run them, and stop them in order."""
    loop = asyncio.get_running_loop()
    config, entities, recorder = current.config, stores.entities, stores.recorder
    manifest = Manifest.load(config.runtimes.manifest) if config.runtimes.manifest else Manifest.load()
    observer = Observer()
    hooks = PoolHooks(
        transition=observer.container_moved,
        tail=lambda activation, container, cpu_us: _book_tail(observer, recorder, pool, activation, container, cpu_us),
        late_lines=lambda lines: observer.log_lines(late=lines),
        repaired=lambda _container: observer.repaired(),
    )
    broken: asyncio.Future[None] = loop.create_future()
    loop.set_exception_handler(lambda _loop, context: _on_loop_error(broken, context))
    async with AsyncExitStack() as listeners, asyncio.TaskGroup() as group:
        pool = Pool(backend, _pool_settings(config), node=config.node, group=group, table=stores.table, hooks=hooks)
        planner = Planner(config=lambda: current.config, manifest=manifest, backend=backend, code=stores.code)
        invoker = Invoker(
            pool=pool,
            planner=planner,
            recorder=recorder,
            read_code=entities.code.read,
            group=group,
            node=config.node,
            max_wait_s=lambda: current.config.pool.max_wait_s,
            result_bytes=lambda: current.config.limits.result_bytes,
            on_finished=lambda activation: _observe(observer, activation),
        )
        keeper = Keeper(
            pool=pool,
            backend=backend,
            notifier=notifier,
            extra_checks=lambda: _store_checks(recorder),
            on_lag=observer.loop_lag,
        )
        authenticator = Authenticator(entities, stores.pepper)
        entities.on_change(lambda before, after: _on_entity(before, after, pool, planner, entities, group))
        operations = Operations(
            config=lambda: current.config,
            entities=entities,
            authenticator=authenticator,
            pool=pool,
            invoker=invoker,
            usage=lambda namespace, since, until: priced_usage(recorder, current.prices, namespace, since, until),
            health=keeper.health,
            drain=lambda: _refuse_new_work(keeper, invoker),
        )
        await _take_over(stores, backend, planner, pool, invoker, authenticator)
        services = Services(
            authenticator=authenticator,
            admission=Admission(lambda: current.config.limits),
            manifest=manifest,
            entities=entities,
            activations=recorder,
            invoker=invoker,
            limits=lambda: current.config.limits,
            price=lambda activation: rate_activation(activation, current.prices),
            health=keeper.health,
            ready=keeper.ready,
            wall_clock=time.time,
            build=build_date(),
            build_number=__version__,
        )
        exposition = Exposition(
            observer,
            Sources(
                pool=pool.statistics,
                in_flight=lambda: invoker.total_in_flight,
                recorder_lag_s=lambda: recorder.lag().seconds,
                recorder_backlog=lambda: recorder.lag().rows,
                engine_up=lambda: keeper.engine_up,
            ),
            BuildInfo(
                version=__version__,
                revision="",
                engine=backend.facts.api_version,
                cgroup=f"v{backend.facts.cgroup_version}",
            ),
        )
        loops = [
            group.create_task(keeper.watch_loop(), name="watch the loop"),
            group.create_task(keeper.engine_loop(), name="look at the engine"),
            group.create_task(backend.watch_events(keeper.nudged.set), name="engine events"),
            group.create_task(_reload_loop(signals, notifier, current, config_path, planner), name="reload"),
            group.create_task(_raise_bugs(broken), name="bugs"),
        ]
        if probe := await _probe_image(planner, manifest, backend, config):
            loops.append(group.create_task(keeper.probe_loop(probe, NOBODY), name="self-test"))
        await listeners.enter_async_context(serve_control(operations, config.control_socket))
        await _listen(listeners, config, services, exposition)
        gc.collect()
        gc.freeze()  # what is here stays: the collector need not walk it again, which shows in the p99
        notifier.ready(f"serving on {config.http.listen}")
        log.info("ready: serving on %s, metrics on %s", config.http.listen, config.metrics.listen)
        await signals.drain.wait()
        notifier.stopping("draining")
        await _stop(signals, keeper, invoker, pool, listeners, current.config.http.drain_s)
        for task in loops:
            task.cancel()


async def _stop(
    signals: Signals, keeper: Keeper, invoker: Invoker, pool: Pool, listeners: AsyncExitStack, drain_s: float
) -> None:
    """Refuse, drain, cancel, answer, freeze: in this order."""
    _refuse_new_work(keeper, invoker)
    log.info("draining: %d activations are in flight", invoker.total_in_flight)
    async with asyncio.TaskGroup() as group:
        hurry = group.create_task(signals.hurry.wait(), name="hurry")
        drained = group.create_task(invoker.wait_idle(), name="drain")
        await asyncio.wait({hurry, drained}, timeout=drain_s, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not drained.done():
            log.warning("%d activations did not end in time and are cancelled", invoker.total_in_flight)
            invoker.cancel_all()
    await listeners.aclose()
    await pool.close()


def _refuse_new_work(keeper: Keeper, invoker: Invoker) -> None:
    keeper.draining = True
    invoker.refuse()


# ---- at start


async def _take_over(
    stores: Stores, backend: DockerBackend, planner: Planner, pool: Pool, invoker: Invoker, authenticator: Authenticator
) -> None:
    """Settle what an earlier daemon left: its lost activations, its containers, what it had accepted."""
    entities, recorder = stores.entities, stores.recorder
    lost = {activation_id: (facts, start_ms) for activation_id, facts, start_ms in lost_activations(stores.table)}
    for accepted in recorder.recovery.begun:
        lost.setdefault(accepted.activation_id, (_facts_of_accepted(accepted, entities), accepted.accepted_ms))
    count = await invoker.record_lost((name, facts, start_ms) for name, (facts, start_ms) in lost.items())
    if count:
        log.warning("%d activations were running when the last daemon ended: recorded as lost unless they had finished", count)
    try:
        found = await backend.list_containers()
        adopted, removed = await adopt_or_remove(
            found, table=stores.table, backend=backend, entities=entities, planner=planner, pool=pool
        )
        log.info("containers of the last daemon: %d adopted, %d removed", adopted, removed)
    except InvokerError as error:
        log.error("the containers of the last daemon cannot be seen, and stay until they can: %s", error)  # noqa: TRY400
    for accepted in recorder.recovery.unbegun:
        namespace, action = entities.get_namespace(accepted.namespace), _action_of(accepted, entities)
        if namespace is None or action is None:
            await invoker.record_lost([(accepted.activation_id, _facts_of_accepted(accepted, entities), accepted.accepted_ms)])
            continue
        call = Call(
            identity=Identity(namespace=namespace, api_key=authenticator.derived_key(namespace)),
            action=action,
            payload=accepted.payload,
            payload_bytes=len(accepted.payload),
            transaction=accepted.transaction,
            blocking=False,
            wait_s=0.0,
            received=time.monotonic(),
            authenticate_us=0,
            authorise_us=0,
            resolve_us=0,
        )
        invoker.resume(accepted, call)
    if recorder.recovery.unbegun:
        log.info("%d accepted activations that had not begun are run now", len(recorder.recovery.unbegun))


def _action_of(accepted: Accepted, entities: EntityStore) -> Action | None:
    owner, _, path = accepted.path.partition("/")
    entity = entities.get(owner, path)
    return entity if isinstance(entity, Action) else None


def _facts_of_accepted(accepted: Accepted, entities: EntityStore) -> Facts:
    namespace, action = entities.get_namespace(accepted.namespace), _action_of(accepted, entities)
    if namespace is not None and action is not None:
        return facts_of(namespace, action)
    return Facts(
        namespace=accepted.namespace,
        path=accepted.path,
        version="0.0.1",
        kind="unknown",
        timeout=0,
        memory=0,
        logs=0,
        concurrency=1,
    )


async def _probe_image(planner: Planner, manifest: Manifest, backend: DockerBackend, config: Config) -> str | None:
    """Find the image that the self-test runs on; without it the node says that it is not tested."""
    runtime = next((runtime for runtime in manifest.runtimes.values() if runtime.family == "python" and runtime.default), None)
    if runtime is None or config.pool.memory_mib < 2 * PROBE_MEMORY_MIB:
        return None
    try:
        return (await backend.resolve_image(runtime.image, pull=False)).image_id
    except InvokerError as error:
        log.warning("no self-test: %s; run scripts/images on this node", error)
        return None


async def _listen(stack: AsyncExitStack, config: Config, services: Services, exposition: Exposition) -> None:
    """Open the listeners; sockets that systemd passed go before the configured addresses."""
    inherited = {passed.name: passed.socket for passed in inherited_sockets()}
    metrics = web.AppRunner(metrics_application(exposition), access_log=None)
    api = web.ServerRunner(build_server(services))
    for name, runner, address in (("http", api, config.http.listen), ("metrics", metrics, config.metrics.listen)):
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        passed = inherited.get(name) or (inherited.get("invokerd.socket") if name == "http" else None)
        try:
            if passed is not None:
                await web.SockSite(runner, passed, backlog=config.http.backlog).start()
            else:
                await web.TCPSite(runner, address.host, address.port, backlog=config.http.backlog).start()
        except OSError as error:
            raise ConfigError(
                [f"[{name}] listen = {address}: {error.strerror or error}; choose another, or end who has it"]
            ) from error


def _lock(path: Path) -> int:
    """Lock the state directory for this process's life; the kernel unlocks it, however the process ends."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.read(fd, 32).decode(errors="replace").strip()
        os.close(fd)
        raise StateDirectoryInUse(
            f"another daemon (process {owner or 'unknown'}) uses {path.parent}; stop it, or choose another state_dir"
        ) from None
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
    return fd


def _pepper(path: Path) -> bytes:
    """Read the secret that keys are hashed with, or make it. Without it no key is any good: it belongs in the backup."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(fd, "wb") as file:  # noqa: PTH123 - by descriptor
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(fd)
        return path.read_bytes()


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _pool_settings(config: Config) -> PoolSettings:
    pool = config.pool
    return PoolSettings(
        memory_mib=pool.memory_mib,
        freeze_grace_s=pool.freeze_grace_s,
        keep_alive_s=pool.keep_alive_s,
        parallel_starts=pool.parallel_starts,
        max_waiting=pool.max_waiting,
        max_containers_per_action=pool.max_containers_per_action,
    )


def _prices(config: Config) -> Prices:
    try:
        return Prices.load(config.prices.file)
    except BadPrices as error:
        raise ConfigError([f"prices.file: {error}"]) from error


def build_date() -> str:
    """When this version of the package was installed, ISO 8601: what clients show as the build."""
    return datetime.fromtimestamp(Path(__file__).stat().st_mtime, UTC).isoformat(timespec="seconds")


# ---- while it runs


async def _reload_loop(
    signals: Signals, notifier: Notifier, current: Current, config_path: Path | None, planner: Planner
) -> None:
    """On SIGHUP take over what may change; a bad file changes nothing."""
    while True:
        await signals.wait_reload()
        notifier.reloading()
        try:
            reload = reloadable_changes(current.config, load(config_path).config)
            prices = _prices(reload.config)
        except ConfigError as error:
            log.error("reload: the old configuration stays: %s", error)  # noqa: TRY400
        else:
            current.config, current.prices = reload.config, prices
            logging.getLogger().setLevel(reload.config.log.level.upper())
            planner.forget()
            log.info("reload: applied: %s", ", ".join(reload.applied) or "nothing has changed")
            if reload.needs_restart:
                log.warning("reload: these need a restart: %s", ", ".join(reload.needs_restart))
        notifier.ready()


async def _raise_bugs(broken: asyncio.Future[None]) -> None:
    """A bug in a callback brings the daemon down: systemd starts it again, and start-up settles what it left."""
    await broken


def _on_loop_error(broken: asyncio.Future[None], context: dict[str, object]) -> None:
    error = context.get("exception")
    log.error("%s", context.get("message"), exc_info=error if isinstance(error, BaseException) else None)
    if "handle" in context and isinstance(error, Exception) and not broken.done():
        broken.set_exception(error)


def _on_entity(
    before: Entity | None, after: Entity | None, pool: Pool, planner: Planner, entities: EntityStore, group: asyncio.TaskGroup
) -> None:
    """An action was written or deleted: no old container serves it any more, and its image is looked for now, not in a call."""
    if isinstance(before, Action):
        pool.retire(before.full_path, revision=after.revision if isinstance(after, Action) else None)
    if isinstance(after, Action):
        group.create_task(_prepare(after, pool, planner, entities), name=f"prepare {after.full_path}")


async def _prepare(action: Action, pool: Pool, planner: Planner, entities: EntityStore) -> None:
    namespace = entities.get_namespace(action.namespace)
    if namespace is None or action.exec.kind == "sequence":
        return
    try:
        plan = await planner.make(namespace, action)
    except InvokerError as error:
        log.info("%s is not ready to run yet: %s", action.full_path, error)
        return
    if plan.stems:
        pool.want_stems(plan.key.spec, plan.stems)


def _book_tail(
    observer: Observer, recorder: Recorder, pool: Pool, activation: ActivationId, container: ContainerId, cpu_us: int
) -> None:
    """CPU time after a reply belongs to the activation that replied."""
    known = pool.machine.books.containers.get(container)
    observer.tail(cpu_us)
    if known is not None and known.spec.namespace != "invokerd":
        recorder.tail(activation, known.spec.namespace, cpu_us, path=known.key.action if known.key else "")


def _observe(observer: Observer, activation: Activation) -> None:
    meter = activation.meter
    observer.activation_finished(
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


def _store_checks(recorder: Recorder) -> list[Check]:
    lag = recorder.lag()
    room = recorder.room()
    return [
        Check(
            name="journal", ok=room, detail="" if room else "no room: new work is refused; free space on the disk of state_dir"
        ),
        Check(name="ledger", ok=lag.seconds < 30, detail=f"{lag.rows} records, {lag.seconds:.1f} s behind"),
    ]
