"""What a new configuration may change while the daemon runs, and what waits for a restart."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from invoker.config.keys import walk
from invoker.config.model import Config

#: Keys, or whole sections, that SIGHUP may change; every other key needs a restart.
RELOADABLE = ("limits", "prices", "log.level", "isolation.mounts")


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


def reloadable_changes(old: Config, new: Config) -> Reload:
    """Tell which differences of `new` may take effect now, and which wait for a restart."""
    before = {name: value for name, _, value in walk(old)}
    changed = [name for name, _, value in walk(new) if before[name] != value]
    applied = tuple(name for name in changed if is_reloadable(name))
    config = dataclasses.replace(
        old,
        limits=new.limits,
        prices=new.prices,
        log=dataclasses.replace(old.log, level=new.log.level),
        isolation=dataclasses.replace(old.isolation, mounts=new.isolation.mounts),
    )
    return Reload(config, applied, tuple(name for name in changed if name not in applied))
