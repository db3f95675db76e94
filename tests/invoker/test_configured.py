import dataclasses
from pathlib import Path

import click.testing
import pytest

from invoker.__main__ import main
from invoker.config.keys import ConfigError
from invoker.config.model import Config, HttpConfig
from invoker.configured import check, load_manifest, load_operator_credentials, load_prices


def write(tmp_path: Path, prices: str = "plan = []", manifest: str | None = None) -> Path:
    (tmp_path / "prices.toml").write_text(prices)
    config = tmp_path / "invokerd.toml"
    config.write_text('state_dir = "state"\n[prices]\nfile = "prices.toml"\n')
    if manifest is not None:
        (tmp_path / "kinds.json").write_text(manifest)
        config.write_text(config.read_text() + '[runtimes]\nmanifest = "kinds.json"\n')
    return config


def test_what_comes_with_invokerd_can_be_read() -> None:
    assert load_prices(Config()).plans
    assert load_manifest(Config()).runtimes
    check(Config())


def test_check_config_refuses_bad_plans_and_a_bad_manifest_together_as_the_start_would(tmp_path: Path) -> None:
    config = write(tmp_path, prices="nonsense", manifest="{")
    refused = click.testing.CliRunner().invoke(main, ["check-config", "--config", str(config)])
    assert refused.exit_code == 78
    assert "prices.file: " in refused.stderr
    assert "runtimes.manifest: " in refused.stderr
    assert "kinds.json" in refused.stderr
    assert click.testing.CliRunner().invoke(main, ["check-config", "--config", str(write(tmp_path))]).exit_code == 0


def test_a_manifest_that_is_not_there_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    from invoker.config.load import load

    config = write(tmp_path, manifest="")
    (tmp_path / "kinds.json").unlink()
    with pytest.raises(ConfigError, match=r"runtimes\.manifest: .*kinds\.json"):
        load_manifest(load(config).config)


def credentials_of(path: Path | None) -> str | None:
    return load_operator_credentials(dataclasses.replace(Config(), http=HttpConfig(operator_credentials_file=path)))


def test_operators_have_one_line_of_credentials_or_none_at_all(tmp_path: Path) -> None:
    assert credentials_of(None) is None
    path = tmp_path / "operator.key"
    path.write_text("operator:hush:with colon\n")
    assert credentials_of(path) == "operator:hush:with colon"


@pytest.mark.parametrize("content", [None, b"", b"operator\n", b":hush", b"operator:", b"a:b\nc:d\n", b"\xff:x"])
def test_what_is_no_credentials_is_refused_with_the_key_of_the_configuration(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "operator.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"http\.operator_credentials_file: .*operator\.key"):
        credentials_of(path)
