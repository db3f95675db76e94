import json
from collections.abc import Iterator

import pytest

from invoker.commands import doctor
from invoker.commands.doctor import Finding, Node, Verdict, bad, ok, warning
from invoker.config.model import Config

FINDINGS = [ok("kernel", "Linux 6"), warning("live-restore", "off", "turn it on"), bad("engine", "silent", "start it")]


def test_a_node_is_fit_with_warnings_but_not_with_anything_bad() -> None:
    assert doctor.is_fit(FINDINGS[:2])
    assert not doctor.is_fit(FINDINGS)


def test_findings_are_rendered_with_advice_and_the_verdict_at_the_end() -> None:
    text = doctor.render(FINDINGS)
    assert "ok    kernel        Linux 6\n" in text
    assert "WARN  live-restore  off\n" in text
    assert "-> turn it on\n" in text
    assert text.endswith("This node is NOT FIT: 1 bad, 1 warnings.\n")
    assert doctor.render(FINDINGS[:1]).endswith("This node is fit: 0 bad, 0 warnings.\n")


def test_findings_are_rendered_for_scripts() -> None:
    document = json.loads(doctor.render_json(FINDINGS))
    assert document["fit"] is False
    assert document["findings"][1] == {"check": "live-restore", "verdict": "warning", "text": "off", "advice": "turn it on"}


def test_a_check_that_the_system_refuses_is_a_finding_and_hides_no_other() -> None:
    def check_open_files(_: Node) -> Iterator[Finding]:
        raise PermissionError(13, "Permission denied")
        yield ok("unreachable", "")

    def check_kernel(_: Node) -> Iterator[Finding]:
        yield ok("kernel", "fine")

    found = list(doctor.run([check_open_files, check_kernel], Node(config=Config())))
    assert [(each.check, each.verdict) for each in found] == [("open-files", Verdict.BAD), ("kernel", Verdict.OK)]


@pytest.mark.docker
def test_a_whole_examination_of_this_node_has_an_opinion_on_everything(engine_url: str) -> None:
    from invoker.config.model import EngineConfig

    found = doctor.examine(Config(engine=EngineConfig(url=engine_url)))
    checks = {each.check for each in found}
    assert {"kernel", "user", "cgroups", "freezer", "network-namespaces", "engine", "runtimes", "memory", "state-dir"} <= checks
    assert {"state-fs", "state-space", "sqlite", "daemon", "open-files", "processes", "engine-live-restore"} <= checks
    assert all(each.advice for each in found if each.verdict is not Verdict.OK)
