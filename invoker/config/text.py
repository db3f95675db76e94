"""The configuration as text: the example file, the reference in the documentation, and what is in effect.

All three come from the declarations in `model.py`, so that none of them can tell of a key that is not there.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from invoker.config.keys import Address, walk
from invoker.config.load import Loaded, Origin
from invoker.config.model import Config, SiteMount
from invoker.config.reload import is_reloadable

_HEAD = """\
# Configuration of invokerd. Every key is here with its default; remove the # before one to change it.
# The unit is in the name: _s seconds, _ms milliseconds, _mib MiB, _millis thousandths. Paths may be relative to this file.
# Unknown keys are refused at start. `invokerd check-config --config FILE` prints what is in effect.
# (R) marks what `systemctl reload invokerd` applies; everything else needs a restart.
"""
_MOUNT_EXAMPLE = """\
# [[isolation.mounts]]
# name = "data"
# source = "/srv/data"
# target = "/data"
# read_only = true
# namespaces = ["*"]
"""


def to_json(value: Any) -> Any:
    """Turn a configuration value, or a branch, into what `json.dumps` takes. Addresses and paths become text."""
    if isinstance(value, Address | Path):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {each.name: to_json(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [to_json(each) for each in value]
    return value


def to_toml(value: Any) -> str:
    """Write a value as TOML would; JSON's texts, numbers and lists of texts are TOML's too."""
    return json.dumps(to_json(value), ensure_ascii=False)


def render_example() -> str:
    """Render `docs/invokerd.example.toml`: every key, commented out, with its meaning and default."""
    lines = [_HEAD]
    for section, keys in _sections():
        if section:
            lines.append(f"\n# {_section_doc(section)}\n[{section}]")
        for name, declared, value in keys:
            if declared.name == "mounts":
                continue
            mark = " (R)" if is_reloadable(name) else ""
            lines.append(textwrap.indent(textwrap.fill(declared.metadata["doc"] + mark, 110), "# "))
            shown = declared.metadata["shown"]
            if shown:
                lines.append(f"# default: {shown.replace('`', '')}")
            lines.append(f"# {declared.name} = {_example_value(declared, value)}\n")
        if section == "isolation":
            lines.append("# Directories of the host that namespaces may be granted. (R)")
            lines.append(_MOUNT_EXAMPLE)
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def render_reference() -> str:
    """Render the tables of `docs/configuration.md`, one section after the other."""
    lines: list[str] = []
    for section, keys in _sections():
        lines += [f"### {f'`[{section}]`' if section else 'Top level'}", ""]
        if section:
            lines += [_section_doc(section), ""]
        lines += ["| key | default | meaning |", "| --- | --- | --- |"]
        for name, declared, value in keys:
            doc = declared.metadata["doc"] + _bounds(declared) + (" **(R)**" if is_reloadable(name) else "")
            lines.append(f"| `{declared.name}` | {_shown_default(declared, value)} | {doc} |")
        lines.append("")
    lines += ["### `[[isolation.mounts]]`", "", typing.cast("str", SiteMount.__doc__), ""]
    lines += ["| key | default | meaning |", "| --- | --- | --- |"]
    for each in dataclasses.fields(SiteMount):
        default = "required" if each.name in ("name", "source", "target") else f"`{to_toml(each.default)}`"
        lines.append(f"| `{each.name}` | {default} | {each.metadata['doc']} |")
    return "\n".join(lines) + "\n"


def render_effective(loaded: Loaded) -> str:
    """Render the configuration in effect as TOML, with the origin of what is not a default."""
    lines = [f"# {loaded.path or 'no file: defaults and environment'}"]
    section = ""
    tables: list[str] = []
    for name, declared, value in walk(loaded.config):
        if declared.name == "mounts":
            tables += [
                "\n[[isolation.mounts]]\n" + "\n".join(f"{k} = {to_toml(v)}" for k, v in to_json(mount).items())
                for mount in value
            ]
            continue
        if name.rpartition(".")[0] != section:
            section = name.rpartition(".")[0]
            lines.append(f"\n[{section}]")
        origin = loaded.origins[name]
        comment = "" if origin is Origin.DEFAULT else f"  # {origin.value}"
        # TOML has no null: a key without a value is shown as the comment it would be in the file.
        lines.append(f"# {declared.name} is not set" if value is None else f"{declared.name} = {to_toml(value)}{comment}")
    return "\n".join([*lines, *tables]) + "\n"


def render_effective_json(loaded: Loaded) -> str:
    """Render the configuration in effect as JSON: `file`, `config`, and `origins` of each dotted key."""
    document = {
        "file": str(loaded.path) if loaded.path else None,
        "config": to_json(loaded.config),
        "origins": {name: origin.value for name, origin in loaded.origins.items()},
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _sections() -> Iterator[tuple[str, list[Any]]]:
    sections: dict[str, list[Any]] = {}
    for each in walk(Config()):
        sections.setdefault(each.name.rpartition(".")[0], []).append(each)
    yield from sections.items()


def _section_doc(section: str) -> str:
    branch: Any = Config()
    for part in section.split("."):
        branch = getattr(branch, part)
    return (type(branch).__doc__ or "").partition("\n")[0]


def _shown_default(declared: Any, value: Any) -> str:
    upstream = declared.metadata["openwhisk"]
    text = declared.metadata["shown"] or f"`{to_toml(value)}`"
    return text if upstream is None or upstream == value else f"{text}; openwhisk `{to_toml(upstream)}`"


def _example_value(declared: Any, value: Any) -> str:
    """Write a default; a plausible value stands for one that depends on the machine: the file is the same anywhere."""
    plausible = {
        "memory_mib": "16384",
        "memory_max_mib": "16384",
        "node": '"node-1"',
        "parallel_starts": "4",
        "cpu_seconds_per_window": "36000",
        "max_memory_per_user_mib": "8192",
        "public_url": '"https://functions.example.org"',
        "file": '"/etc/invokerd/prices.toml"',
        "manifest": '"/etc/invokerd/runtimes.json"',
        "operator_credentials_file": '"/etc/invokerd/operator.key"',
        "credentials_file": '"/etc/invokerd/registry.json"',
        "parameter_key_file": '"/etc/invokerd/parameters.key"',
    }
    return plausible.get(declared.name) or to_toml(value)


def _bounds(declared: Any) -> str:
    low, high, choices = (declared.metadata[what] for what in ("at_least", "at_most", "choices"))
    if choices:
        return f" One of {', '.join(f'`{each}`' for each in choices)}."
    if low is not None and high is not None:
        return f" {low} to {high}."
    return f" At least {low}." if low not in (None, 0) else ""
