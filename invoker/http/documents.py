"""From entities to what clients see of them: one document alone, and one as an entry of a list, which is another shape.

The values of parameters and annotations are put in as the text they came as.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from invoker.manifest import SEQUENCE, without_digest
from invoker.model import Action, Entity, Exec, Limits, Package, Parameter, Rule, RuleStatus, Trigger

_FALSE = msgspec.Raw(b"false")


def _head(entity: Entity) -> dict[str, Any]:
    """Make the fields that every document has, in a list too."""
    return {
        "namespace": entity.full_path.rpartition("/")[0],
        "name": entity.name,
        "version": entity.version,
        "publish": entity.publish,
        "annotations": entity.annotations,
        "updated": entity.updated,
    }


# --- actions ----------------------------------------------------------------------------------------------------------


def action_document(action: Action, code: str | None, *, binding: str | None = None) -> dict[str, Any]:
    """Make a whole action.

    Args:
        action: the action, with the parameters that are to be shown.
        code: what was sent as its code; None leaves the field out.
        binding: full path of the binding that it was found through; None leaves the field out.
    """
    document = _head(action) | {
        "exec": _exec(action.exec, code),
        "parameters": action.parameters,
        "limits": limits_document(action.limits),
    }
    if binding is not None:
        document["binding"] = binding
    return document


def action_entry(action: Action) -> dict[str, Any]:
    """Make an action of a list: of what it executes that tells only whether it is binary."""
    return _head(action) | {"limits": limits_document(action.limits), "exec": {"binary": action.exec.binary}}


def limits_document(limits: Limits) -> dict[str, int]:
    """Make the limits of an action; `instances` only if it is set."""
    shown = {"timeout": limits.timeout, "memory": limits.memory, "logs": limits.logs, "concurrency": limits.concurrency}
    if limits.instances is not None:
        shown["instances"] = limits.instances
    return shown


def _exec(execution: Exec, code: str | None) -> dict[str, Any]:
    if execution.kind == SEQUENCE:
        return {"kind": SEQUENCE, "components": [f"/{path}" for path in execution.components]}
    shown: dict[str, Any] = {"kind": execution.kind}
    if execution.image is not None:
        shown["image"] = without_digest(execution.image)
    if code is not None:
        shown["code"] = code
    if execution.main is not None:
        shown["main"] = execution.main
    shown["binary"] = execution.binary
    return shown


# --- packages ---------------------------------------------------------------------------------------------------------


def package_document(package: Package, *, parameters: Sequence[Parameter] | None = None) -> dict[str, Any]:
    """Make a package without what is in it.

    Args:
        package: the package, or the binding.
        parameters: what is shown instead of its own; None shows these.
    """
    return _head(package) | {
        "parameters": package.parameters if parameters is None else parameters,
        "binding": package.binding or {},
    }


def package_contents(actions: Iterable[Action]) -> dict[str, Any]:
    """Make the lists of what is in a package: feeds are actions with the annotation `feed`, and are listed apart."""
    contents: dict[str, Any] = {"actions": [], "feeds": []}
    for action in actions:
        is_feed = any(annotation.key == "feed" for annotation in action.annotations)
        entry = {"name": action.name, "version": action.version, "annotations": action.annotations}
        contents["feeds" if is_feed else "actions"].append(entry)
    return contents


def package_entry(package: Package) -> dict[str, Any]:
    """Make a package of a list, where `binding` is false for a real one."""
    return _head(package) | {"binding": package.binding or _FALSE}


# --- triggers and rules -----------------------------------------------------------------------------------------------


def trigger_document(trigger: Trigger, rules: Sequence[Rule]) -> dict[str, Any]:
    """Make a trigger, with its rules when it has or had any.

    Args:
        trigger: the trigger.
        rules: all that are linked to it, in the order in which they run.
    """
    document = _head(trigger) | {"parameters": trigger.parameters, "limits": {}}
    if rules or trigger.had_rules:
        document["rules"] = {
            rule.full_path: {"action": _path_and_name(rule.action), "status": rule.status.value} for rule in rules
        }
    return document


def trigger_entry(trigger: Trigger) -> dict[str, Any]:
    """Make a trigger of a list."""
    return _head(trigger)


def rule_document(rule: Rule, status: RuleStatus) -> dict[str, Any]:
    """Make a rule.

    Args:
        rule: the rule.
        status: that counts: see `Rule.status_under`.
    """
    return rule_entry(rule) | {"status": status.value}


def rule_entry(rule: Rule) -> dict[str, Any]:
    """Make a rule of a list: its status is not told there."""
    return _head(rule) | {"trigger": _path_and_name(rule.trigger), "action": _path_and_name(rule.action)}


def _path_and_name(full_path: str) -> dict[str, str]:
    path, _, name = full_path.rpartition("/")
    return {"path": path, "name": name}
