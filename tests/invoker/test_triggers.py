"""Firing: what becomes of each rule, what the actions are called with, and what is written before the answer."""

import msgspec
import pytest
from api_site import Site

from invoker.errors import JournalFull
from invoker.model import (
    Action,
    Annotation,
    Binding,
    Exec,
    Identity,
    Package,
    Parameter,
    Rule,
    RuleStatus,
    Trigger,
)
from invoker.triggers import merge_fire_arguments
from invoker.vault import KEY_BYTES, ParameterUnreadable, Vault
from pool.errors import PoolClosed, PoolOverloaded, TooManyWaiting


def raw(value) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def a_trigger(**changes) -> Trigger:
    return Trigger(**({"namespace": "guest", "path": "t", "revision": "r", "updated": 0, "birth": "b"} | changes))


class Firing:
    """A site with a trigger, and rules on it by the order they are added."""

    def __init__(self):
        self.site = Site()
        self.site.services()
        self.trigger = a_trigger()
        self.count = 0
        self.add(self.trigger)

    def add(self, entity):
        self.site.entities.add(entity)

    def action(self, path="a", namespace="guest", kind="python:3", **changes):
        self.add(Action(namespace=namespace, path=path, revision="r", updated=0, exec=Exec(kind=kind), **changes))

    def rule(self, name, action="guest/a", **changes):
        self.count += 1
        values = {"trigger": "guest/t", "action": action, "link": "b", "linked_ms": self.count}
        self.add(Rule(namespace="guest", path=name, revision=name, updated=0, **(values | changes)))

    async def fire(self, payload=None, headers=None):
        identity = Identity(namespace=self.site.entities.get_namespace("guest"), api_key="u:k")
        return await self.site.triggers.fire(identity, self.trigger, raw(payload or {}), headers=headers, transaction="tid")

    def lines(self, activation_id):
        return [msgspec.json.decode(line) for line in self.site.activations.logs[activation_id]]

    @property
    def calls(self):
        return [call for _, call in self.site.invoker.promised]


@pytest.fixture
def firing():
    return Firing()


async def test_each_active_rule_runs_its_action_and_the_record_links_them(firing):
    firing.action()
    firing.action("b")
    firing.rule("r1")
    firing.rule("r2", "guest/b")
    activation_id = await firing.fire({"x": 1})
    assert [call.action.path for call in firing.calls] == ["a", "b"]
    assert firing.lines(activation_id) == [
        {"statusCode": 0, "success": True, "rule": f"guest/{rule}", "action": f"guest/{action}", "activationId": begun}
        for (rule, action), (begun, _) in zip((("r1", "a"), ("r2", "b")), firing.site.invoker.promised, strict=True)
    ]
    (record,) = firing.site.activations.records
    assert (record.activation_id, record.path, record.kind, record.subject) == (activation_id, "guest/t", "trigger", "guest")
    assert msgspec.json.decode(record.result) == {"x": 1}
    assert (record.cause, record.start_ms) == (None, int(firing.site.now * 1000))


async def test_without_an_active_rule_nothing_happens(firing):
    assert await firing.fire() is None
    firing.rule("off", status=RuleStatus.INACTIVE)
    firing.rule("of an earlier trigger", link="other")
    assert await firing.fire() is None
    assert firing.site.activations.records == []


async def test_a_rule_that_cannot_run_says_why_and_the_others_run(firing):
    firing.action()
    firing.action("old", kind="python:2")
    final = Annotation(key="final", value=raw(True))
    firing.action("locked", parameters=(Parameter(key="x", value=raw(1)),), annotations=(final,))
    firing.add(Package(namespace="other", path="private", revision="r", updated=0))
    firing.action("private/a", namespace="other")
    for name, action in (
        ("missing", "guest/nothing"),
        ("foreign", "other/private/a"),
        ("deprecated", "guest/old"),
        ("final", "guest/locked"),
        ("good", "guest/a"),
    ):
        firing.rule(name, action)
    firing.rule("off", status=RuleStatus.INACTIVE)
    lines = firing.lines(await firing.fire({"x": 2}))
    assert [(line["rule"], line["statusCode"], line["success"]) for line in lines] == [
        ("guest/missing", 1, False),
        ("guest/foreign", 1, False),
        ("guest/deprecated", 1, False),
        ("guest/final", 1, False),
        ("guest/good", 0, True),
        ("guest/off", 1, False),
    ]
    for line, part in zip(
        lines,
        (
            "does not exist.",
            "is not authorized to access 'other/",
            "no longer supported",
            "not allowed",
            None,
            "Rule 'guest/off' is inactive",
        ),
        strict=True,
    ):
        assert part is None or part in line["error"]
    assert [call.action.path for call in firing.calls] == ["a"]


async def test_what_rules_run_counts_as_invocations_and_is_throttled_one_by_one(firing):
    firing.action()
    for number in range(4):
        firing.rule(f"r{number}")
    firing.site.grant(invocations_per_minute=3)
    lines = firing.lines(await firing.fire())
    assert [line["success"] for line in lines] == [True, True, True, False]
    assert "Too many requests in the last minute (count: 4, allowed: 3)" in lines[3]["error"]


async def test_what_a_fire_has_begun_itself_counts_as_in_flight(firing):
    firing.action()
    for number in range(3):
        firing.rule(f"r{number}")
    firing.site.grant(concurrent_invocations=2)
    lines = firing.lines(await firing.fire())
    assert [line["success"] for line in lines] == [True, True, False]
    assert "Too many concurrent requests in flight (count: 2, allowed: 2)" in lines[2]["error"]


async def test_rules_of_a_namespace_without_cpu_time_run_nothing_and_the_fires_record_says_so(firing):
    firing.action()
    firing.rule("r")
    firing.site.grant(cpu_seconds_per_window=2)
    firing.site.use(2.5)
    (line,) = firing.lines(await firing.fire())
    assert line["success"] is False
    assert "Too much CPU time used in the last 3600 seconds (used: 2.5 s, allowed: 2 s)" in line["error"]
    assert firing.calls == []


async def test_an_action_behind_a_binding_gets_what_it_inherits(firing):
    of_package, of_binding = Parameter(key="k", value=raw("package")), Parameter(key="m", value=raw(1))
    bound = Binding(namespace="guest", name="p")
    firing.add(Package(namespace="guest", path="p", revision="r", updated=0, parameters=(of_package,)))
    firing.action("p/a")
    firing.add(Package(namespace="guest", path="q", revision="r", updated=0, binding=bound, parameters=(of_binding,)))
    firing.rule("r", "guest/q/a")
    (line,) = firing.lines(await firing.fire())
    (call,) = firing.calls
    assert line["action"] == "guest/q/a"
    assert (call.action.full_path, call.binding) == ("guest/p/a", "guest/q")
    assert {parameter.key for parameter in call.action.parameters} == {"k", "m"}


@pytest.mark.parametrize("refusal", [PoolClosed, JournalFull])
async def test_what_the_node_cannot_take_leaves_no_record(firing, refusal):
    firing.action()
    firing.rule("r")

    async def refuse(*_):
        raise refusal

    firing.site.invoker.run_promised = refuse
    with pytest.raises(refusal):
        await firing.fire()
    assert firing.site.activations.records == []


# ---- sealed parameters


def secret(value: str = "hush", key: str = "s") -> Parameter:
    return Parameter(key=key, value=raw(value), encryption="aes-256")


async def test_a_sealed_parameter_is_open_for_the_action_and_sealed_in_what_is_written(firing):
    firing.action()
    firing.rule("r")
    firing.trigger = a_trigger(parameters=firing.site.vault.seal("guest", (secret(), Parameter(key="p", value=raw(1)))))
    await firing.fire({"x": 2})
    (call,) = firing.calls
    assert msgspec.json.decode(call.payload) == {"s": "hush", "p": 1, "x": 2}
    (written,) = firing.site.activations.payloads
    assert b"hush" not in bytes(written)
    assert firing.site.vault.open_payload(written) == call.payload
    (record,) = firing.site.activations.records
    assert msgspec.json.decode(record.result) == {"x": 2}


async def test_what_is_written_of_any_fire_is_sealed(firing):
    firing.action()
    firing.rule("r")
    await firing.fire({"x": "a password"}, headers={"X-Token": "a token"})
    (written,) = firing.site.activations.payloads
    assert b"a password" in bytes(firing.calls[0].payload)
    assert b"a token" in bytes(firing.calls[0].payload)
    assert b"a password" not in bytes(written)
    assert b"a token" not in bytes(written)
    assert firing.site.vault.open_payload(written) == firing.calls[0].payload


async def test_a_parameter_that_cannot_be_opened_is_named_and_nothing_is_fired(firing):
    firing.action()
    firing.rule("r")
    other = Vault(b"o" * KEY_BYTES)
    firing.trigger = a_trigger(parameters=other.seal("guest", (secret(),)))
    with pytest.raises(ParameterUnreadable, match="'s' cannot be opened"):
        await firing.fire()
    assert (firing.calls, firing.site.activations.records) == ([], [])


# ---- what the actions are called with


def test_the_payload_lies_over_the_headers_over_the_triggers_parameters():
    trigger = a_trigger(parameters=(Parameter(key="x", value=raw(1)), Parameter(key="y", value=raw(2))))
    headers = {"X-Mine": "yes", "Content-Type": "application/json", "Content-Length": "9", "Authorization": "Basic secret"}
    merged = merge_fire_arguments(trigger.parameters, headers, raw({"y": 3}))
    assert msgspec.json.decode(merged) == {"x": 1, "y": 3, "__ow_headers": {"x-mine": "yes"}}
    assert msgspec.json.decode(merge_fire_arguments(trigger.parameters, headers, raw({"__ow_headers": 0})))["__ow_headers"] == 0


def test_without_parameters_and_headers_the_payload_is_passed_byte_for_byte():
    payload = msgspec.Raw(b'{ "n": 1.0e400 }')
    assert merge_fire_arguments((), None, payload) is payload


def test_numbers_stay_as_they_were_written():
    trigger = a_trigger(parameters=(Parameter(key="big", value=msgspec.Raw(b"12345678901234567890123")),))
    assert (
        bytes(merge_fire_arguments(trigger.parameters, None, msgspec.Raw(b'{"n":1.10}')))
        == b'{"big":12345678901234567890123,"n":1.10}'
    )


@pytest.mark.parametrize(("full", "status"), [(TooManyWaiting("3 wait"), 1), (PoolOverloaded("3 wait"), 3)])
async def test_a_rule_whose_action_may_not_even_wait_runs_nothing_and_the_record_says_why(firing, full, status):
    firing.action()
    firing.rule("r1")
    firing.site.invoker.full = full
    activation_id = await firing.fire()
    assert firing.calls == []
    (line,) = firing.lines(activation_id)
    assert (line["statusCode"], line["success"], line["error"]) == (status, False, "3 wait")
