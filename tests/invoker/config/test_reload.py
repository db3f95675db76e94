import dataclasses
from pathlib import Path
from typing import Any

from invoker.config.keys import Address, walk
from invoker.config.model import Config, IsolationConfig, LimitsConfig, SiteMount
from invoker.config.reload import RELOADABLE, is_reloadable, reloadable_changes

SITE = IsolationConfig(mounts=(SiteMount(name="data", source=Path("/srv/data"), target=Path("/data")),))


def test_a_reload_applies_limits_prices_log_level_mounts_and_shares_and_names_the_rest() -> None:
    old = Config()
    new = dataclasses.replace(
        old,
        state_dir=Path("/elsewhere"),
        limits=LimitsConfig.of_profile("site", timeout_max_ms=7),
        log=dataclasses.replace(old.log, level="debug"),
        isolation=dataclasses.replace(SITE, pids=9),
        pool=dataclasses.replace(old.pool, shares=("physics-*=4",), stem_cells=dataclasses.replace(old.pool.stem_cells, count=3)),
        prices=dataclasses.replace(old.prices, file=Path("/p.toml")),
    )
    reload = reloadable_changes(old, new)
    assert set(reload.applied) == {"limits.timeout_max_ms", "log.level", "isolation.mounts", "pool.shares", "prices.file"}
    assert set(reload.needs_restart) == {"state_dir", "isolation.pids", "pool.stem_cells.count"}
    assert reload.config.limits.timeout_max_ms == 7
    assert reload.config.isolation.mounts == SITE.mounts
    assert reload.config.pool == dataclasses.replace(old.pool, shares=("physics-*=4",))
    assert reload.config.isolation.pids == old.isolation.pids
    assert reload.config.state_dir == old.state_dir
    assert reloadable_changes(reload.config, reload.config) == (reload.config, (), ())


def changed_throughout(branch: Any) -> Any:
    """The same tree with another value in each leaf."""
    values = {}
    for each in dataclasses.fields(branch):
        value = getattr(branch, each.name)
        leaf = not dataclasses.is_dataclass(value) or isinstance(value, Address)
        values[each.name] = ("another", each.name) if leaf else changed_throughout(value)
    return type(branch)(**values)


def test_what_is_called_reloadable_is_what_a_reload_applies() -> None:
    old = Config()
    new = changed_throughout(old)
    new = dataclasses.replace(new, pool=dataclasses.replace(new.pool, memory_mib=old.pool.memory_mib))
    reload = reloadable_changes(old, new)
    applied = {name for name, _, value in walk(reload.config) if value == ("another", name.rpartition(".")[2])}
    assert applied == set(reload.applied) == {name for name, _, _ in walk(old) if is_reloadable(name)}
    assert {name.partition(".")[0] for name in applied} == {each.partition(".")[0] for each in RELOADABLE}
