"""From the configuration to what the pool is given: an open engine, and its settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from invoker.config.keys import ConfigError
from invoker.config.model import Config, PoolConfig
from invoker.health import Check
from invoker.stores import boot_id
from pool.courtesy import Courtesy, NoIdleCgroup, idle_file
from pool.docker import DockerBackend
from pool.guard import Deadlines
from pool.keepalive import POLICIES
from pool.parent import NoParentCgroup
from pool.settings import UNLIMITED_MIB, PoolSettings
from pool.user_groups import UserGroups, default_parent, parent_path
from pool.wall import Wall


@asynccontextmanager
async def open_engine(config: Config, *, weight_of: Callable[[str], float]) -> AsyncIterator[DockerBackend]:
    """Connect to the container engine, and prepare the cgroup of all containers. Remove it at the end, if no container is left.

    Args:
        config: checked.
        weight_of: gives the weight of a namespace at this moment.

    Raises:
        EngineUnavailable, EngineError: it does not answer, or is too old.
        ConfigError: the cgroup cannot be made, or no engine could give way on this machine.
    """
    engine = config.engine
    deadlines = Deadlines(
        create_s=engine.create_deadline_s,
        remove_s=engine.remove_deadline_s,
        read_s=engine.read_deadline_s,
        pull_s=engine.pull_deadline_s,
    )
    run_dir = config.state_dir / "containers"
    backend = await DockerBackend.open(engine.url, node=config.node, boot_id=boot_id(), run_dir=run_dir, deadlines=deadlines)
    courtesy: Courtesy | None = None
    groups: UserGroups | None = None
    try:
        if engine.cgroups:
            courtesy = backend.guard.courtesy = _make_courtesy(engine.cgroups)
        groups = await _enter_groups(backend, config, weight_of)
        yield backend
    finally:
        if backend.wall is not None:
            backend.wall.close()
        if groups is not None:
            await asyncio.to_thread(groups.remove_empty, parent=True)
        if courtesy is not None:
            courtesy.close()
        await backend.close()


def _make_courtesy(groups: Sequence[str]) -> Courtesy:
    try:
        return Courtesy([idle_file(group) for group in groups], asyncio.get_running_loop())
    except NoIdleCgroup as error:
        raise ConfigError([f"engine.cgroups: {error}"]) from error


async def _enter_groups(backend: DockerBackend, config: Config, weight_of: Callable[[str], float]) -> UserGroups | None:
    """Have containers made in cgroups of their users, behind a wall."""
    pool, driver = config.pool, backend.facts.cgroup_driver
    name = parent_of(config)
    wall = backend.wall = Wall(name, driver=driver, memory_mib=pool.memory_mib)
    if pool.cgroup_parent:
        try:
            await asyncio.to_thread(wall.raise_now)
        except NoParentCgroup as error:
            raise ConfigError([f"pool.cgroup_parent = {name}: {error}"]) from error
    await wall.keep()
    parent = parent_path(name, driver)
    if parent is None:
        return None
    groups = UserGroups(parent, weight_of, weight=pool.cpu_weight or None)
    await asyncio.to_thread(groups.remove_empty)
    backend.use_groups(groups)
    return groups


def parent_of(config: Config) -> str:
    """Name the cgroup of all containers."""
    return config.pool.cgroup_parent or default_parent(config.node)


def check_wall(wall: Wall | None) -> Check:
    """Tell whether the kernel bounds the memory of all containers together, for `/health`. The node serves without."""
    if wall is None:
        return Check(name="memory-wall", ok=True, detail="not asked for")
    if wall.problem:
        detail = f"only each container has a limit of its own: {wall.problem}"
        return Check(name="memory-wall", ok=True, warning=True, detail=detail)
    hit = f"; {wall.hits} times the kernel ended a process for it, see docs/operations.md" if wall.hits else ""
    return Check(name="memory-wall", ok=True, warning=bool(hit), detail=f"{wall.limit // 2**20} MiB{hit}")


def pool_settings(pool: PoolConfig) -> PoolSettings:
    """Translate the section `pool`; all but `shares` is fixed for the life of a daemon."""
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
        max_memory_per_user_mib=pool.max_memory_per_user_mib or UNLIMITED_MIB,
        shares=pool.weights(),
        shrink_frozen=pool.shrink_frozen,
        frozen_margin_mib=pool.frozen_margin_mib,
    )
