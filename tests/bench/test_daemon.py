import sqlite3
import tomllib

from bench.crash import finished_rows
from bench.daemon import sum_samples, to_toml


def test_dotted_keys_become_sections():
    keys = {"state_dir": "/x y", "pool.freeze_grace_s": 0.0, "pool.stem_cells.enabled": False, "pool.memory_mib": 1024}
    assert tomllib.loads(to_toml(keys)) == {
        "state_dir": "/x y",
        "pool": {"freeze_grace_s": 0.0, "memory_mib": 1024, "stem_cells": {"enabled": False}},
    }


def test_samples_are_summed_over_the_labels_that_are_not_named():
    text = """# TYPE leases counter
leases{start="warm",status="success"} 3.0
leases{start="warm",status="error"} 1.0
leases{start="cold",status="success"} 5.0
leases_waiting 7.0
plain 2.0
"""
    assert sum_samples(text, "leases", {"start": "warm"}) == 4
    assert sum_samples(text, "leases", {}) == 9
    assert sum_samples(text, "plain", {}) == 2
    assert sum_samples(text, "absent", {}) == 0


def test_finished_rows_are_found_in_every_month(tmp_path):
    (tmp_path / "ledger").mkdir()
    for month, rows in (("2026-01", [("a", "finished", "ok"), ("b", "begun", None)]), ("2026-02", [("a", "finished", "lost")])):
        with sqlite3.connect(tmp_path / "ledger" / f"{month}.db") as ledger:
            ledger.execute("CREATE TABLE ledger (subject, type, outcome)")
            ledger.executemany("INSERT INTO ledger VALUES (?, ?, ?)", rows)
        ledger.close()
    assert finished_rows(tmp_path) == {"a": ["ok", "lost"]}
