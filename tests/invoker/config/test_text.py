import json
import re
import tomllib
from pathlib import Path

import pytest

from invoker.config.keys import walk
from invoker.config.load import load
from invoker.config.model import Config
from invoker.config.text import render_effective, render_effective_json, render_example, render_reference

DOCS = Path(__file__).parents[3] / "docs"


def uncommented(example: str) -> str:
    return "\n".join(re.sub(r"^# (?=[a-z_]+ = |\[\[)", "", line) for line in example.splitlines())


def test_the_example_file_is_what_the_declarations_say() -> None:
    assert (DOCS / "invokerd.example.toml").read_text() == render_example(), "run: invokerd example-config"


def test_the_reference_ends_with_what_the_declarations_say() -> None:
    assert (DOCS / "configuration.md").read_text().endswith(render_reference()), "run: invokerd example-config --reference"


def test_every_key_is_in_the_example_and_in_the_reference_with_its_default() -> None:
    example, reference = tomllib.loads(uncommented(render_example())), render_reference()
    for name, declared, value in walk(Config()):
        section, _, leaf = name.rpartition(".")
        place = example
        for part in section.split(".") if section else []:
            place = place[part]
        assert leaf in place, name
        table = reference.partition(f"### `[{section}]`" if section else "### Top level")[2].partition("\n###")[0]
        row = next(line for line in table.splitlines() if line.startswith(f"| `{leaf}` |"))
        shown = declared.metadata["shown"] or f"`{json.dumps(value if isinstance(value, int | float | bool) else str(value))}`"
        assert name == "isolation.mounts" or leaf == "allow" or shown in row, row
        if declared.metadata["shown"] is None and leaf not in ("mounts", "allow"):
            assert place[leaf] == (value if isinstance(value, int | float | bool) else str(value)), name


def test_the_example_as_it_is_changes_nothing_and_uncommented_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "invokerd.toml"
    path.write_text(render_example())
    assert load(path, {}).config == load(None, {}).config
    # The files it names are examples too.
    text = re.sub(r"^(file|manifest|(operator_)?credentials_file) = .*$", "", uncommented(render_example()), flags=re.MULTILINE)
    path.write_text(text)
    assert load(path, {}).config.pool.memory_mib == 16384


def test_what_is_in_effect_is_toml_that_loads_to_the_same_and_names_origins(tmp_path: Path) -> None:
    path = tmp_path / "invokerd.toml"
    path.write_text('[pool]\nmemory_mib = 512\n[[isolation.mounts]]\nname = "data"\nsource = "/srv/da\\"ta"\ntarget = "/data"\n')
    loaded = load(path, {"INVOKERD_NODE": "n7"})
    text = render_effective(loaded)
    assert "memory_mib = 512  # file" in text
    assert 'node = "n7"  # environment' in text
    path.write_text(text)
    assert load(path, {}).config == loaded.config


def test_what_is_in_effect_is_json_too() -> None:
    document = json.loads(render_effective_json(load(None, {"INVOKERD_NODE": "n7"})))
    assert document["file"] is None
    assert document["config"]["http"]["listen"] == "127.0.0.1:3233"
    assert document["origins"]["node"] == "environment"
    assert document["origins"]["pool.memory_mib"] == "default"
