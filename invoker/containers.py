"""From the configuration to what the pool is given: an open engine, and its settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from invoker.config.keys import ConfigError
from invoker.config.model import Config, PoolConfig
from invoker.stores import boot_id
from pool.courtesy import Courtesy, NoIdleCgroup, idle_file
from pool.docker import DockerBackend
from pool.guard import Deadlines
from pool.keepalive import POLICIES
from pool.parent import NoParentCgroup, prepare_parent
from pool.settings import PoolSettings
from pool.user_groups import DEFAULT_PARENT, UserGroups, parent_path


@asynccontextmanager
async def open_engine(config: Config, *, weight_of: Callable[[str], float]) -> AsyncIterator[DockerBackend]:
    """Connect to the container engine, and prepare the cgroup of all containers, which is limited where the site names it.

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
    try:
        if engine.cgroups:
            courtesy = backend.guard.courtesy = _make_courtesy(engine.cgroups)
        driver = backend.facts.cgroup_driver
        if config.pool.cgroup_parent:
            parent: str | None = await asyncio.to_thread(_make_parent, config.pool, driver)
        else:
            parent = parent_path(DEFAULT_PARENT, driver)
        if parent is not None:
            backend.use_groups(UserGroups(parent, weight_of))
        yield backend
    finally:
        if courtesy is not None:
            courtesy.close()
        await backend.close()


def _make_courtesy(groups: Sequence[str]) -> Courtesy:
    try:
        return Courtesy([idle_file(group) for group in groups], asyncio.get_running_loop())
    except NoIdleCgroup as error:
        raise ConfigError([f"engine.cgroups: {error}"]) from error


def _make_parent(pool: PoolConfig, driver: str) -> str:
    try:
        return prepare_parent(pool.cgroup_parent, driver=driver, memory_mib=pool.memory_mib)
    except NoParentCgroup as error:
        raise ConfigError([f"pool.cgroup_parent = {pool.cgroup_parent}: {error}"]) from error


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
        shares=pool.weights(),
        shrink_frozen=pool.shrink_frozen,
        frozen_margin_mib=pool.frozen_margin_mib,
    )
