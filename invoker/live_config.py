"""The configuration and the prices in effect: what the file said at the start, and what reloads have taken over since."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Self

from invoker.config.keys import ConfigError
from invoker.config.load import load
from invoker.config.model import Config
from invoker.config.reload import reloadable_changes
from invoker.configured import load_prices
from invoker.record.rating import Prices
from pool.queueing import weight_of

log = logging.getLogger("invokerd")


class LiveConfig:
    """What is in effect now. Ask it each time: a value that was kept would miss the next reload.

    Attributes:
        config: checked.
        prices: the plans of `prices.file`, or those that come with invokerd.
    """

    def __init__(self, config: Config, prices: Prices, path: Path | None) -> None:
        self.config = config
        self.prices = prices
        self._path = path

    @classmethod
    def of(cls, config: Config, path: Path | None) -> Self:
        """Begin with a checked configuration.

        Args:
            config: as `load` returned it.
            path: the file that `reload` reads; None leaves it to `load` where to look.

        Raises:
            ConfigError: the prices cannot be used.
        """
        return cls(config, load_prices(config), path)

    def weight_of(self, namespace: str) -> float:
        """Return the weight of a namespace in queue, memory and CPU time."""
        return weight_of(namespace, self.config.pool.weights())

    def reload(self) -> bool:
        """Read the file again, take over what may change, and tell the log what that was and what waits for a restart.

        Returns:
            Whether the file can be used. A bad one changes nothing.
        """
        try:
            loaded = load(self._path)
            reload = reloadable_changes(self.config, loaded.config, written=loaded.written)
            prices = load_prices(reload.config)
        except ConfigError as error:
            log.error("reload: the old configuration stays: %s", error)  # noqa: TRY400 - the file's fault, not a bug
            return False
        applied = list(reload.applied)
        if prices.plans != self.prices.plans:
            applied.append(f"price plans {', '.join(plan.name for plan in prices.plans)}")
        self.config, self.prices = reload.config, prices
        logging.getLogger().setLevel(reload.config.log.level.upper())
        if applied:
            log.info("reload: applied: %s", ", ".join(applied))
        if reload.needs_restart:
            log.warning("reload: changed, but these need a restart: %s", ", ".join(reload.needs_restart))
        if not applied and not reload.needs_restart:
            log.info("reload: nothing has changed")
        return True
