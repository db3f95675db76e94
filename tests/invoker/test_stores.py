import os
from types import SimpleNamespace

import pytest

from invoker.stores import LEDGER_BEHIND_S, SECRET_BYTES, SecretUnreadable, StateDirectoryInUse, Stores, _secret, lock_state


def test_a_secret_is_made_once_for_the_daemon_alone_and_read_again(tmp_path):
    path = tmp_path / "secret"
    made = _secret(path)
    assert (len(made), path.stat().st_mode & 0o777) == (SECRET_BYTES, 0o600)
    assert _secret(path) == made


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_secret_of_another_length_is_not_used_and_not_replaced(tmp_path, content):
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(SecretUnreadable, match=f"has {len(content)} bytes, not 32"):
        _secret(path)
    assert path.read_bytes() == content


def test_a_secret_that_cannot_be_made_is_named(tmp_path):
    with pytest.raises(SecretUnreadable, match="missing/secret: No such file"):
        _secret(tmp_path / "missing" / "secret")


def test_a_state_directory_is_one_daemons_and_whoever_comes_second_is_told_whose(tmp_path):
    held = lock_state(tmp_path)
    with pytest.raises(StateDirectoryInUse, match=rf"another daemon \(process {os.getpid()}\) uses {tmp_path}"):
        lock_state(tmp_path)
    os.close(held)  # as the kernel does when the process ends, however it does
    os.close(lock_state(tmp_path))


def stores(*, room: bool = True, behind_s: float = 0.0, damaged: str = "", failure: str = "", refusal: str = "") -> Stores:
    lag = SimpleNamespace(rows=7, seconds=behind_s)
    recorder = SimpleNamespace(lag=lambda: lag, room=lambda: room, failure=failure, refusal=refusal)
    damage = SimpleNamespace(look=lambda: None, summary=lambda: damaged)
    others = ("entities", "apis", "alarms", "table", "code", "pepper", "parameter_key")
    return Stores(recorder=recorder, damage=damage, **dict.fromkeys(others))


@pytest.mark.parametrize(
    ("room", "behind_s", "unwell"),
    [(True, 0.0, []), (False, 0.0, ["journal"]), (True, LEDGER_BEHIND_S, ["ledger"]), (False, 99.0, ["journal", "ledger"])],
)
def test_stores_tell_whether_there_is_room_and_how_far_the_ledger_is_behind(room, behind_s, unwell):
    checks = {check.name: check for check in stores(room=room, behind_s=behind_s).checks()}
    assert set(checks) == {"journal", "state-disk", "ledger", "databases"}
    assert [name for name, check in checks.items() if not check.ok] == unwell
    assert checks["ledger"].detail == f"7 records, {behind_s:.1f} s behind"
    assert ("free space" in checks["journal"].detail) is not room


def test_a_writer_that_has_failed_is_told_of_with_its_reason_and_not_as_a_full_disk():
    checks = {check.name: check for check in stores(room=False, failure="disk I/O error").checks()}
    assert [name for name, check in checks.items() if not check.ok] == ["ledger"]
    assert checks["ledger"].detail.endswith(": disk I/O error")


def test_a_disk_that_does_not_take_a_write_is_told_of_while_there_is_room():
    checks = {check.name: check for check in stores(refusal="database or disk is full").checks()}
    assert [name for name, check in checks.items() if not check.ok] == ["state-disk"]
    assert checks["state-disk"].detail.startswith("database or disk is full; ")


def test_rows_that_cannot_be_read_are_told_and_are_no_illness():
    (check,) = [each for each in stores(damaged="one row of entities").checks() if each.name == "databases"]
    assert (check.ok, check.warning, check.detail) == (True, True, "one row of entities")
