"""What the configuration names and does not hold: the price plans and the manifest of kinds, read when the daemon starts."""

from __future__ import annotations

from invoker.config.model import Config, ConfigError
from invoker.manifest import Manifest, ManifestError
from invoker.record.rating import BadPrices, Prices


def load_prices(config: Config) -> Prices:
    """Read the price plans.

    Raises:
        ConfigError: with what is wrong.
    """
    try:
        return Prices.load(config.prices.file)
    except BadPrices as error:
        raise ConfigError([f"prices.file: {error}"]) from error


def load_manifest(config: Config) -> Manifest:
    """Read the manifest of kinds.

    Raises:
        ConfigError: with what is wrong.
    """
    path = config.runtimes.manifest
    try:
        return Manifest.load(path) if path else Manifest.load()
    except ManifestError as error:
        raise ConfigError([f"runtimes.manifest: {error}"]) from error


def check(config: Config) -> None:
    """Read all of it, to see whether the daemon could.

    Raises:
        ConfigError: with everything that is wrong.
    """
    problems: list[str] = []
    for load in (load_prices, load_manifest):
        try:
            load(config)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
