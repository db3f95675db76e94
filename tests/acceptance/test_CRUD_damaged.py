"""A row that cannot be read stops neither the start nor anything else, is told in every place, and can be written anew."""

from __future__ import annotations

import http.client
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bench.daemon import Daemon
from invoker.record.damage import read_damage

pytestmark = pytest.mark.docker

CODE = "def main(args):\n    return {'ok': True}\n"


def health(daemon: Daemon) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    with closing(connection):
        connection.request("GET", "/health")
        response = connection.getresponse()
        body: dict[str, Any] = json.loads(response.read())
        assert response.status == 200, body
        return body


def test_CRUD_17_a_corrupted_entity_is_500_and_all_else_serves_and_it_can_be_written_anew(
    tmp_path: Path, engine_url: str, make_user: Any
):
    daemon = Daemon(tmp_path, engine_url, {"pool.memory_mib": 1024})
    daemon.start()
    try:
        user = make_user(daemon, "anna")
        for name in ("good", "bad"):
            user.deploy(name, CODE)
        assert user.ask("PUT", "triggers/t", {}).status == 200
        assert user.ask("PUT", "rules/r", {"trigger": "/_/t", "action": "/_/bad"}).status == 200
        daemon.stop()
        with closing(sqlite3.connect(daemon.state_dir / "entities.db")) as entities, entities:
            assert entities.execute("UPDATE entities SET value = '{\"half' WHERE path = 'bad'").rowcount == 1
        daemon.start()

        for method, path in (("GET", "actions/bad"), ("POST", "actions/bad?blocking=true"), ("DELETE", "actions/bad")):
            answer = user.ask(method, path)
            assert answer.status == 500, answer.text
            assert "is corrupted and cannot be read" in answer.error
            assert answer.headers["x-invokerd-reason"] == "entity-corrupted"
        assert user.ask("PUT", "actions/bad", {"exec": {"kind": "python:3", "code": CODE}}).status == 500, (
            "nothing is lost by chance"
        )
        assert user.invoke("good", query="blocking=true&result=true").json == {"ok": True}
        assert [each["name"] for each in user.ask("GET", "actions").json] == ["good"]
        (line,) = user.record(user.ask("POST", "triggers/t", {}).json["activationId"]).json["logs"]
        assert "is corrupted and cannot be read" in json.loads(line)["error"]

        (row,) = read_damage(daemon.state_dir).values()
        assert (row.key, row.content) == ("anna/bad", b'{"half')
        assert "anna/bad" in daemon.end_of_log()
        assert daemon.metric("invokerd_damaged_rows", store="entities") == 1
        checks = {each["name"]: each for each in health(daemon)["checks"]}
        assert checks["databases"]["ok"]
        assert "anna/bad" in checks["databases"]["detail"]

        user.deploy("bad", CODE)
        assert user.invoke("bad", query="blocking=true&result=true").json == {"ok": True}
        daemon.stop()
        daemon.start()
        assert user.ask("GET", "actions/bad").status == 200
    finally:
        daemon.stop()
