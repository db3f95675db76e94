"""What a new configuration may change while the daemon runs, and what waits for a restart."""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from typing import NamedTuple

from invoker.config.keys import walk
from invoker.config.load import fit_limits
from invoker.config.model import Config, LimitsConfig

#: Keys, or whole sections, that SIGHUP may change; every other key needs a restart.
RELOADABLE = ("limits", "prices", "log.level", "isolation.mounts", "pool.shares")


def is_reloadable(name: str) -> bool:
    """Tell whether SIGHUP applies a change of this key."""
    return any(name == each or name.startswith(f"{each}.") for each in RELOADABLE)


class Reload(NamedTuple):
    """What a reload comes to.

    Attributes:
        config: the old configuration with the new values of all keys that may change at run time.
        applied: dotted names of the keys that have changed in it.
        needs_restart: dotted names of keys that differ in the file and stay as they were.
    """

    config: Config
    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]


def reloadable_changes(old: Config, new: Config, *, written: Container[str] = ()) -> Reload:
    """Tell which differences of `new` may take effect now, and which wait for a restart.

    Args:
        old: in effect.
        new: as the file says.
        written: dotted keys that somebody wrote; the others of `new` are defaults, or derived.
    """
    before, wanted = ({name: value for name, _, value in walk(config)} for config in (old, new))
    config = dataclasses.replace(
        old,
        limits=_limits_in_force(old, new, written),
        prices=new.prices,
        log=dataclasses.replace(old.log, level=new.log.level),
        isolation=dataclasses.replace(old.isolation, mounts=new.isolation.mounts),
        pool=dataclasses.replace(old.pool, shares=new.pool.shares),
    )
    after = {name: value for name, _, value in walk(config)}
    return Reload(
        config,
        applied=tuple(name for name, value in after.items() if value != before[name]),
        needs_restart=tuple(name for name, value in after.items() if value != wanted[name] != before[name]),
    )


def _limits_in_force(old: Config, new: Config, written: Container[str]) -> LimitsConfig:
    """Take over the limits as far as the pool that runs has the memory: the file's pool begins with the restart."""
    pool_mib = old.pool.memory_mib
    if pool_mib == new.pool.memory_mib:
        return new.limits
    limits = fit_limits(new.limits, pool_mib, written)
    names = ("memory_min_mib", "memory_default_mib", "memory_max_mib")
    return dataclasses.replace(limits, **{name: min(getattr(limits, name), pool_mib) for name in names})
