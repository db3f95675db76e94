from pathlib import Path

import pytest

from invoker.commands.ctl_client import Exit, Failure
from invoker.commands.ctl_context import Target, read_wskprops, with_scheme


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without properties, and no other settings of who runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WSK_CONFIG_FILE", "INVOKERD_CONFIG", "DOCKER_HOST"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "invokerd.toml"
    path.write_text('state_dir = "state"\n[http]\nlisten = "127.0.0.1:7777"\n')
    return path


def test_properties_are_read_from_home_or_from_the_file_that_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_wskprops() == {}
    (home / ".wskprops").write_text('# mine\nAPIHOST=https://host \n AUTH = "u:k="\nnonsense\n')
    assert read_wskprops() == {"APIHOST": "https://host", "AUTH": "u:k="}
    other = home / "other"
    other.write_text("AUTH=x:y\n")
    monkeypatch.setenv("WSK_CONFIG_FILE", str(other))
    assert read_wskprops() == {"AUTH": "x:y"}


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1:3233", "http://127.0.0.1:3233"),
        ("localhost", "http://localhost"),
        ("[::1]:80", "http://[::1]:80"),
        ("functions.example.org", "https://functions.example.org"),
        ("http://functions.example.org", "http://functions.example.org"),
    ],
)
def test_an_address_without_scheme_is_plain_only_on_this_machine(host: str, url: str) -> None:
    assert with_scheme(host) == url


def test_the_api_is_found_in_the_order_that_the_documentation_gives(home: Path, config: Path) -> None:
    assert Target(auth="u:k").user().url == "http://127.0.0.1:3233"
    (home / ".wskprops").write_text("APIHOST=https://wsk\nAUTH=u:k\n")
    assert Target().user().url == "https://wsk"
    assert Target(config_path=config).user().url == "http://127.0.0.1:7777"
    assert Target(config_path=config, apihost="https://given").user().url == "https://given"


def test_without_a_key_users_are_told_where_to_put_one() -> None:
    with pytest.raises(Failure, match="no key is known") as failed:
        Target().user()
    assert failed.value.exit_code is Exit.USAGE
    assert ".wskprops" in failed.value.hint


def test_the_control_socket_is_in_the_state_directory_or_named(config: Path) -> None:
    assert Target(config_path=config).operator().url == f"unix://{config.parent}/state/control.sock"
    assert Target(config_path=config, socket=Path("/x.sock")).operator().url == "unix:///x.sock"
    config.write_text("nonsense = 1\n")
    with pytest.raises(Failure, match="nonsense: unknown key") as failed:
        Target(config_path=config).operator()
    assert failed.value.exit_code is Exit.BAD_CONFIG


def test_who_names_a_daemon_and_gives_no_key_acts_as_operator(home: Path, config: Path) -> None:
    assert Target().acts_as_operator
    assert Target(config_path=config).acts_as_operator
    assert not Target(config_path=config, auth="u:k").acts_as_operator
    (home / ".wskprops").write_text("AUTH=u:k\n")
    assert not Target().acts_as_operator
    assert Target(config_path=config).acts_as_operator
