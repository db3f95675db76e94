"""What the configuration names and does not hold: price plans, kinds, credentials of operators, read when the daemon starts."""

from __future__ import annotations

from invoker.config.keys import ConfigError
from invoker.config.model import Config
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


def load_operator_credentials(config: Config) -> str | None:
    """Read who may take the node out of service, `user:password`; None without a file.

    Raises:
        ConfigError: what the file holds is something else.
    """
    path = config.http.operator_credentials_file
    if path is None:
        return None
    try:
        credentials = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"http.operator_credentials_file: {path}: {error}"]) from error
    if not all(credentials.partition(":")) or len(credentials.splitlines()) != 1:
        raise ConfigError([f"http.operator_credentials_file: {path} must have one line, user:password"])
    return credentials


def check(config: Config) -> None:
    """Read all of it, to see whether the daemon could.

    Raises:
        ConfigError: with everything that is wrong.
    """
    problems: list[str] = []
    for load in (load_prices, load_manifest, load_operator_credentials):
        try:
            load(config)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
