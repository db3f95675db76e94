"""From a TOML file and the environment to a checked `Config`. Whatever is wrong is said at once, with file and line.

Environment variables go before the file: `INVOKERD_STATE_DIR`, `INVOKERD_POOL_MEMORY_MIB`,
`INVOKERD_POOL_STEM_CELLS_COUNT`; lists are separated by commas.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import os
import re
import tomllib
import typing
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from invoker.config.keys import Address, ConfigError, walk
from invoker.config.model import Config, LimitsConfig, SiteMount
from invoker.config.rules import find_problems

#: Read when no file is named and it exists.
DEFAULT_PATH = Path("/etc/invokerd/invokerd.toml")
_PREFIX = "INVOKERD_"
_TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


class Origin(enum.Enum):
    """Where a value comes from."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A checked configuration.

    Attributes:
        config: the values.
        path: the file they were read from; None when there was none.
        origins: dotted key to where its value comes from; every key is present.
    """

    config: Config
    path: Path | None
    origins: Mapping[str, Origin]

    @property
    def written(self) -> frozenset[str]:
        """Dotted keys that somebody wrote."""
        return frozenset(name for name, origin in self.origins.items() if origin is not Origin.DEFAULT)


class _Setting(NamedTuple):
    """A value that somebody wrote: the value, who wrote it, and where, for messages."""

    value: Any
    origin: Origin
    where: str


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Loaded:
    """Read, merge and check the configuration.

    Args:
        path: the TOML file; None reads `DEFAULT_PATH` where that exists, else takes defaults and environment alone.
        environ: environment variables; None is the process's own.

    Raises:
        ConfigError: with every problem found, not only the first.
    """
    if path is None and DEFAULT_PATH.is_file():
        path = DEFAULT_PATH
    problems: list[str] = []
    written = _read_file(path, problems) if path is not None else {}
    environ = os.environ if environ is None else environ
    written |= _read_environment(environ, problems)
    if "engine.url" not in written and environ.get("DOCKER_HOST"):
        written["engine.url"] = _Setting(environ["DOCKER_HOST"], Origin.ENVIRONMENT, "environment DOCKER_HOST")
    base = path.absolute().parent if path is not None else Path.cwd()
    config = _build(Config, "", written, base, problems)
    if not problems:
        for key, text in find_problems(config):
            setting = _setting_of(key, written)
            problems.append(f"{setting.where if setting else 'default'}: {key}: {text}")
    if problems:
        raise ConfigError(problems)
    origins = {name: written[name].origin if name in written else Origin.DEFAULT for name, _, _ in walk(config)}
    return Loaded(config=config, path=path, origins=origins)


def _setting_of(key: str, written: Mapping[str, _Setting]) -> _Setting | None:
    """Find who wrote a key; a part of a list (`isolation.mounts[0].source`) was written with its list."""
    return written.get(key.partition("[")[0])


def _read_file(path: Path, problems: list[str]) -> dict[str, _Setting]:
    try:
        text = path.read_text("utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([f"{path}: is not TOML: {error}"]) from error
    written: dict[str, _Setting] = {}
    known = _known_keys()
    sections = {name.rpartition(".")[0] for name in known} - {""}

    def flatten(table: Mapping[str, Any], prefix: str) -> None:
        for name, value in table.items():
            key = prefix + name
            where = _where(path, text, key)
            if isinstance(value, dict) and key in sections:
                flatten(value, f"{key}.")
            elif key in known:
                written[key] = _Setting(value, Origin.FILE, where)
            elif key in sections:
                problems.append(f"{where}: [{key}] is a section, not a value")
            else:
                likely = known if prefix else [*known, *sections]
                problems.append(f"{where}: {key}: unknown key{_nearest(key, likely)}")

    flatten(document, "")
    return written


def _read_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, _Setting]:
    written: dict[str, _Setting] = {}
    variables = {_PREFIX + name.replace(".", "_").upper(): (name, hint) for name, hint in _known_keys().items()}
    # A variable that begins like a section is meant for us; any other INVOKERD_... is somebody else's.
    ours = tuple(sorted({name.rpartition("_")[0] + "_" for name in (_PREFIX + s.upper() + "_" for s in _section_names())}))
    for variable, text in sorted(environ.items()):
        if variable in variables:
            name, hint = variables[variable]
            value = _from_text(text, hint)
            if value is None:
                problems.append(f"environment: {variable}: {text!r} is not {_describe(hint)}")
            else:
                written[name] = _Setting(value, Origin.ENVIRONMENT, f"environment {variable}")
        elif variable.startswith(ours):
            problems.append(f"environment: {variable}: unknown key{_nearest(variable, variables)}")
    return written


def _section_names() -> list[str]:
    return [each.name for each in dataclasses.fields(Config) if dataclasses.is_dataclass(_hints(Config)[each.name])]


def _hints(cls: type) -> dict[str, Any]:
    """Map the fields of a class to their types; of what may be left unset, to the type of what can be written."""
    return {name: _written_type(hint) for name, hint in typing.get_type_hints(cls).items()}


def _written_type(hint: Any) -> Any:
    members = typing.get_args(hint)
    return members[0] if type(None) in members else hint


def _known_keys(cls: type = Config, prefix: str = "") -> dict[str, Any]:
    """Map each dotted key to its type."""
    known: dict[str, Any] = {}
    for name, hint in _hints(cls).items():
        if dataclasses.is_dataclass(hint) and hint is not Address:
            known |= _known_keys(typing.cast("type", hint), f"{prefix}{name}.")
        else:
            known[prefix + name] = hint
    return known


def _build(cls: type[Any], prefix: str, written: Mapping[str, _Setting], base: Path, problems: list[str]) -> Any:
    """Make one branch of the tree from what was written and the defaults of the rest."""
    values: dict[str, Any] = {}
    for name, hint in _hints(cls).items():
        key = prefix + name
        if dataclasses.is_dataclass(hint) and hint is not Address:
            values[name] = _build(typing.cast("type", hint), f"{key}.", written, base, problems)
        elif key in written:
            setting = written[key]
            try:
                values[name] = _convert(setting.value, hint, base)
            except ValueError as error:
                problems.append(f"{setting.where}: {key}: {error}")
    if cls is LimitsConfig:
        return LimitsConfig.of_profile(values.pop("profile", "site"), **values)
    if cls is Config:
        values["limits"] = fit_limits(values["limits"], values["pool"].memory_mib, written)
    return cls(**values)


def fit_limits(limits: LimitsConfig, pool_mib: int, written: Container[str]) -> LimitsConfig:
    """Fit a profile's memory limits to what the pool has; limits that somebody wrote are left to be judged.

    Args:
        limits: as written, the rest from their profile, whatever pool that was fitted to before.
        pool_mib: memory of the pool.
        written: dotted keys that somebody wrote.
    """
    profile = LimitsConfig.of_profile(limits.profile)
    most = limits.memory_max_mib
    if "limits.memory_max_mib" not in written:
        most = pool_mib if limits.profile == "site" else min(profile.memory_max_mib, pool_mib)
    default = limits.memory_default_mib
    if "limits.memory_default_mib" not in written:
        default = min(profile.memory_default_mib, most)
    return dataclasses.replace(limits, memory_max_mib=most, memory_default_mib=default)


def _convert(value: Any, hint: Any, base: Path) -> Any:
    """Turn a TOML value into a field's type; raise ValueError with what was expected."""
    if hint is float and type(value) is int:
        return float(value)
    if hint in (bool, int, float, str) and type(value) is hint:
        return value
    if hint is Address and isinstance(value, str):
        return Address.parse(value)
    if hint is Path and isinstance(value, str):
        return base / Path(value).expanduser()
    for members, inside, convert in ((tuple[str, ...], str, str), (tuple[SiteMount, ...], dict, _mount)):
        if hint == members and isinstance(value, list) and all(isinstance(each, inside) for each in value):
            return tuple(convert(each) for each in value)
    raise ValueError(f"{value!r} is not {_describe(hint)}")


def _mount(table: Mapping[str, Any]) -> SiteMount:
    hints = _hints(SiteMount)
    for name in table:
        if name not in hints:
            raise ValueError(f"unknown key {name!r} of a mount{_nearest(name, hints)}")
    for name in ("name", "source", "target"):
        if name not in table:
            raise ValueError(f"a mount needs {name}")
    # A mount's paths are judged as written: a relative one is refused, not resolved.
    return SiteMount(**{name: _convert(value, hints[name], Path()) for name, value in table.items()})


def _from_text(text: str, hint: Any) -> Any:
    """Read an environment variable as the TOML value of a key; None when it is none."""
    try:
        if hint is bool:
            return _TRUTHS.get(text.lower())
        if hint is float:
            return float(text)
        if hint is int:
            return int(text)
    except ValueError:
        return None
    if hint == tuple[str, ...]:
        return [each.strip() for each in text.split(",") if each.strip()]
    return None if hint == tuple[SiteMount, ...] else text


def _describe(hint: Any) -> str:
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text in quotes",
        Address: 'an address such as "127.0.0.1:3233"',
        tuple[str, ...]: "a list of texts",
        tuple[SiteMount, ...]: "a list of tables, [[isolation.mounts]] in the file",
    }
    return names.get(hint, "a path in quotes")


def _nearest(name: str, known: Any) -> str:
    """Name the likeliest intended key, for the end of a sentence."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    leaf = name.rpartition(".")[2]
    same_leaf = [each for each in known if each.rpartition(".")[2] == leaf]
    found = same_leaf or close
    return f"; did you mean {found[0]}?" if found else "; docs/configuration.md lists all"


def _where(path: Path, text: str, key: str) -> str:
    """Say where in the file a dotted key stands, `file:line`; only the file when that cannot be told."""
    section, _, leaf = key.rpartition(".")
    current = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line)
        if header:
            current = header[1].replace(" ", "")
            if current == key:
                return f"{path}:{number}"
        elif current == section and re.match(rf"\s*[\"']?{re.escape(leaf)}[\"']?\s*[=.]", line):
            return f"{path}:{number}"
    return str(path)
