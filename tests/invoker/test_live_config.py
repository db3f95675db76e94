"""A reload: what is taken over, and what the log says of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from prices import PLAN

from invoker.config.keys import ConfigError
from invoker.config.load import load
from invoker.live_config import LiveConfig

MOST, DEFAULT = "limits.memory_max_mib", "limits.memory_default_mib"


class Site:
    """A configuration file and what the daemon has of it."""

    def __init__(self, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.file = directory / "invokerd.toml"
        self.plans = directory / "prices.toml"
        self.plans.write_text(PLAN.format(name="old", invocation="0.25"))
        self._caplog = caplog
        caplog.set_level("INFO")  # and back at the end: a reload sets it
        self.write()
        self.live = LiveConfig.of(load(self.file).config, self.file)

    def write(self, **sections: str) -> None:
        written = {"prices": 'file = "prices.toml"', "pool": "memory_mib = 2048", **sections}
        self.file.write_text("".join(f"[{name}]\n{keys}\n" for name, keys in written.items()))

    def reload(self) -> list[str]:
        """Reload; return the lines of the log, each with its level."""
        self._caplog.clear()
        self.live.reload()
        return [f"{record.levelname} {record.getMessage()}" for record in self._caplog.records]


@pytest.fixture
def site(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Site:
    return Site(tmp_path, caplog)


def test_nothing_has_changed_is_said_when_nothing_has(site: Site) -> None:
    assert site.reload() == ["INFO reload: nothing has changed"]


def test_what_changed_and_needs_a_restart_is_named_and_nothing_else_is_said(site: Site) -> None:
    site.write(http="drain_s = 7.0", pool="memory_mib = 2048\nfreeze_grace_s = 1.0")
    line = "WARNING reload: changed, but these need a restart: http.drain_s, pool.freeze_grace_s"
    assert site.reload() == [line]
    assert (site.live.config.http.drain_s, site.live.config.pool.freeze_grace_s) == (30.0, 0.05)
    assert site.reload() == [line]  # as long as the file and the daemon differ


def test_what_is_applied_and_what_is_not_have_a_line_each(site: Site) -> None:
    site.write(pool="memory_mib = 1024", limits="payload_bytes = 4096\nmemory_max_mib = 1024", log='level = "debug"')
    assert logging.getLogger().level == logging.INFO
    applied, waiting = site.reload()
    assert applied == "INFO reload: applied: limits.memory_max_mib, limits.payload_bytes, log.level"
    assert waiting == "WARNING reload: changed, but these need a restart: pool.memory_mib"
    assert (site.live.config.limits.payload_bytes, logging.getLogger().level) == (4096, logging.DEBUG)


@pytest.mark.parametrize(
    ("pool_mib", "limits", "in_force", "applied", "waiting"),
    [
        (1024, "", (2048, 256), set(), {MOST}),
        (4096, "", (2048, 256), set(), {MOST}),
        (128, "", (2048, 256), set(), {MOST, DEFAULT}),
        (4096, "memory_max_mib = 4096", (2048, 256), set(), {MOST}),
        (4096, "memory_max_mib = 4096\nmemory_default_mib = 3072", (2048, 2048), {DEFAULT}, {DEFAULT, MOST}),
        (1024, "memory_max_mib = 512", (512, 256), {MOST}, set()),
        (4096, "memory_max_mib = 512\nmemory_default_mib = 512", (512, 512), {MOST, DEFAULT}, set()),
    ],
)
def test_limits_follow_the_pool_that_runs_until_the_restart(
    site: Site, pool_mib: int, limits: str, in_force: tuple[int, int], applied: set[str], waiting: set[str]
) -> None:
    site.write(pool=f"memory_mib = {pool_mib}", limits=limits)
    *first, last = site.reload()
    live = site.live.config
    assert (live.pool.memory_mib, live.limits.memory_max_mib, live.limits.memory_default_mib) == (2048, *in_force)
    assert named(last) == {"pool.memory_mib", *waiting}
    assert [named(line) for line in first] == ([applied] if applied else [])


def test_a_profile_is_fitted_to_the_pool_that_runs(site: Site) -> None:
    site.write(pool="memory_mib = 256", limits='profile = "openwhisk"')
    site.reload()
    assert site.live.config.limits.memory_max_mib == 512
    site.write(pool="memory_mib = 2048", limits="")
    site.reload()
    assert site.live.config.limits.memory_max_mib == 2048


def named(line: str) -> set[str]:
    """Keys that a line of the log names."""
    return set(line.rpartition(": ")[2].split(", "))


def test_what_is_no_error_any_more_is_not_written_not_even_that_the_level_was_taken_over(site: Site) -> None:
    site.write(log='level = "error"')
    assert site.reload() == []
    assert site.live.config.log.level == "error"


def test_other_plans_in_the_same_file_are_a_change(site: Site) -> None:
    site.plans.write_text(PLAN.format(name="new", invocation="0.25"))
    assert site.reload() == ["INFO reload: applied: price plans new@1"]
    assert [plan.name for plan in site.live.prices.plans] == ["new@1"]
    assert site.reload() == ["INFO reload: nothing has changed"]


@pytest.mark.parametrize("fault", ["config", "prices"])
def test_a_bad_file_changes_nothing(site: Site, fault: str) -> None:
    before = site.live.config, site.live.prices
    site.write(limits="payload_bytes = 4096", **({"nonsense": ""} if fault == "config" else {}))
    if fault == "prices":
        site.plans.write_text("nonsense")
    (line,) = site.reload()
    assert line.startswith("ERROR reload: the old configuration stays: ")
    assert {"config": "nonsense", "prices": "prices.file"}[fault] in line
    assert (site.live.config, site.live.prices) == before
    assert not site.live.reload()


def test_prices_that_cannot_be_used_stop_the_start(site: Site) -> None:
    site.plans.unlink()
    site.plans.touch()
    with pytest.raises(ConfigError, match=r"prices\.file: "):
        LiveConfig.of(load(site.file).config, site.file)


def test_a_reload_changes_the_weights_of_namespaces(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(tmp_path, caplog)
    assert site.live.weight_of("physics-1") == 1.0
    site.write(pool='memory_mib = 2048\nshares = ["physics-*=4"]')
    assert site.reload() == ["INFO reload: applied: pool.shares"]
    assert [site.live.weight_of(each) for each in ("physics-1", "chemistry")] == [4.0, 1.0]
    site.write(pool='memory_mib = 2048\nshares = ["physics-*=four"]')
    [line] = site.reload()
    assert "the old configuration stays" in line
    assert site.live.weight_of("physics-1") == 4.0
