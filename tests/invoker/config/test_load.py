from pathlib import Path

import pytest

from invoker.config.keys import Address, ConfigError
from invoker.config.load import Loaded, Origin, load


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "invokerd.toml"
    path.write_text(text)
    return path


def problems_of(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as refused:
        load(write(tmp_path, text), environ or {})
    return "\n".join(refused.value.problems)


def test_defaults_alone_are_a_good_configuration() -> None:
    loaded = load(None, {})
    assert loaded.path is None
    assert set(loaded.origins.values()) == {Origin.DEFAULT}


def test_the_environment_goes_before_the_file_and_the_file_before_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, '[pool]\nmemory_mib = 2048\nkeep_alive_s = 5\n[http]\nlisten = "127.0.0.1:80"\n')
    loaded = load(path, {"INVOKERD_POOL_MEMORY_MIB": "4096", "INVOKERD_POOL_STEM_CELLS_ENABLED": "false"})
    assert loaded.config.pool.memory_mib == 4096
    assert loaded.config.pool.keep_alive_s == 5.0
    assert isinstance(loaded.config.pool.keep_alive_s, float)
    assert loaded.config.http.listen == Address("127.0.0.1", 80)
    assert loaded.config.pool.stem_cells.enabled is False
    assert loaded.origins["pool.memory_mib"] is Origin.ENVIRONMENT
    assert loaded.origins["pool.keep_alive_s"] is Origin.FILE
    assert loaded.origins["pool.max_waiting"] is Origin.DEFAULT


def test_lists_and_paths_come_from_the_environment_too() -> None:
    loaded = load(None, {"INVOKERD_REGISTRY_ALLOW": "a/*, b/*", "INVOKERD_STATE_DIR": "/srv/x"})
    assert loaded.config.registry.allow == ("a/*", "b/*")
    assert loaded.config.state_dir == Path("/srv/x")


def test_a_limit_that_may_be_absent_is_a_number_where_it_is_written(tmp_path: Path) -> None:
    assert load(None, {}).config.limits.cpu_seconds_per_window is None
    assert load(write(tmp_path, "[limits]\ncpu_seconds_per_window = 0\n"), {}).config.limits.cpu_seconds_per_window == 0
    assert load(None, {"INVOKERD_LIMITS_CPU_SECONDS_PER_WINDOW": "36"}).config.limits.cpu_seconds_per_window == 36
    assert "is too small; at least 0" in problems_of(tmp_path, "[limits]\ncpu_seconds_per_window = -1\n")
    assert "'x' is not a whole number" in problems_of(tmp_path, "[limits]\ncpu_seconds_per_window = 'x'\n")


def test_docker_host_names_the_engine_unless_something_else_does(tmp_path: Path) -> None:
    docker_host = {"DOCKER_HOST": "unix:///tmp/other.sock"}
    assert load(None, docker_host).config.engine.url == "unix:///tmp/other.sock"
    path = write(tmp_path, '[engine]\nurl = "unix:///file.sock"\n')
    assert load(path, docker_host).config.engine.url == "unix:///file.sock"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").touch()
    config = load(write(tmp_path, 'state_dir = "state"\n[prices]\nfile = "prices.toml"\n'), {}).config
    assert config.state_dir == tmp_path / "state"
    assert config.prices.file == tmp_path / "prices.toml"


def test_an_unknown_key_is_refused_with_line_and_the_nearest_valid_one(tmp_path: Path) -> None:
    said = problems_of(tmp_path, "[pool]\nkeep_alive_s = 1\nmemroy_mib = 5\n")
    assert f"{tmp_path}/invokerd.toml:3: pool.memroy_mib: unknown key; did you mean pool.memory_mib?" in said


def test_a_key_in_the_wrong_section_is_pointed_to_the_right_one(tmp_path: Path) -> None:
    assert "did you mean pool.memory_mib?" in problems_of(tmp_path, "memory_mib = 5\n")


def test_an_unknown_section_is_refused_by_name(tmp_path: Path) -> None:
    said = problems_of(tmp_path, "[pol]\nmemory_mib = 5\n")
    assert ":1: pol: unknown key; did you mean pool?" in said


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    said = problems_of(
        tmp_path,
        'nod = "x"\n[pool]\nfreeze_grace_s = "soon"\nmemory_mib = true\nmax_waiting = 1.5\n[http]\nlisten = "here"\n',
    )
    assert "nod: unknown key; did you mean node?" in said
    assert ":3: pool.freeze_grace_s: 'soon' is not a number" in said
    assert ":4: pool.memory_mib: True is not a whole number" in said
    assert ":5: pool.max_waiting: 1.5 is not a whole number" in said
    assert ":7: http.listen: expected host:port" in said


def test_a_section_given_as_a_value_is_refused(tmp_path: Path) -> None:
    assert "[pool] is a section, not a value" in problems_of(tmp_path, "pool = 3\n")


def test_bad_toml_and_a_missing_file_are_told_with_the_file(tmp_path: Path) -> None:
    assert "line 1" in problems_of(tmp_path, "= 3\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "absent.toml", {})


def test_a_variable_like_a_key_is_refused_and_a_foreign_one_is_left_alone(tmp_path: Path) -> None:
    said = problems_of(tmp_path, "", {"INVOKERD_POOL_MEMORY": "5", "INVOKERD_TEST_DOCKER": "1", "INVOKERD_CONFIG": "x"})
    assert said == "environment: INVOKERD_POOL_MEMORY: unknown key; did you mean INVOKERD_POOL_MEMORY_MIB?"


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("INVOKERD_POOL_MEMORY_MIB", "much", "a whole number"),
        ("INVOKERD_POOL_KEEP_ALIVE_S", "long", "a number"),
        ("INVOKERD_ISOLATION_ALLOW_ROOT", "maybe", "true or false"),
        ("INVOKERD_ISOLATION_MOUNTS", "/x", "[[isolation.mounts]] in the file"),
    ],
)
def test_a_variable_of_the_wrong_type_is_refused_by_its_name(variable: str, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(None, {variable: text})
    assert variable in str(refused.value)
    assert expected in str(refused.value)


def test_rules_tell_where_the_value_at_fault_was_written(tmp_path: Path) -> None:
    said = problems_of(tmp_path, "[pool]\nmemory_mib = 1024\n[limits]\nmemory_max_mib = 65536\n")
    assert said == f"{tmp_path}/invokerd.toml:4: limits.memory_max_mib: 65536 is more than pool.memory_mib = 1024"
    with pytest.raises(ConfigError, match="environment INVOKERD_NODE: node: "):
        load(None, {"INVOKERD_NODE": "Not A Name"})


def load_limits(tmp_path: Path, text: str) -> Loaded:
    return load(write(tmp_path, text), {})


def test_memory_limits_nobody_wrote_fit_themselves_to_the_pool(tmp_path: Path) -> None:
    assert load_limits(tmp_path, "[pool]\nmemory_mib = 900\n").config.limits.memory_max_mib == 900
    small = load_limits(tmp_path, "[pool]\nmemory_mib = 200\n").config.limits
    assert (small.memory_default_mib, small.memory_max_mib) == (200, 200)
    openwhisk = load_limits(tmp_path, '[pool]\nmemory_mib = 400\n[limits]\nprofile = "openwhisk"\ntimeout_max_ms = 9000000\n')
    assert openwhisk.config.limits.memory_max_mib == 400
    assert openwhisk.config.limits.invocations_per_minute == 60
    assert openwhisk.config.limits.timeout_max_ms == 9_000_000


MOUNT = '[[isolation.mounts]]\nname = "data"\nsource = "/srv/data"\ntarget = "/data"\n'


def test_mounts_are_tables_with_known_and_needed_keys(tmp_path: Path) -> None:
    mounts = load(write(tmp_path, MOUNT + 'namespaces = ["a*"]\n'), {}).config.isolation.mounts
    assert [(m.name, str(m.source), str(m.target), m.read_only, m.namespaces) for m in mounts] == [
        ("data", "/srv/data", "/data", True, ("a*",))
    ]
    assert "unknown key 'readonly' of a mount; did you mean read_only?" in problems_of(tmp_path, MOUNT + "readonly = true\n")
    assert "a mount needs target" in problems_of(tmp_path, '[[isolation.mounts]]\nname = "d"\nsource = "/srv"\n')
    assert "must be an absolute path" in problems_of(tmp_path, MOUNT.replace("/srv/data", "srv/data"))
