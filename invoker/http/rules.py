"""The rules of the API: which action runs when which trigger fires. Each handler parses, calls and renders."""

from __future__ import annotations

import msgspec

from invoker.entitlement import Resource, Right, authorise_all
from invoker.errors import EntityNotFound, InvalidRequest, MalformedContent, WrongCollection
from invoker.http.bodies import parse_rule, parse_status
from invoker.http.documents import rule_document, rule_entry
from invoker.http.entities import check_put, find, find_replaced, list_page, new_revision, now_ms, written_fields
from invoker.http.exchange import TEXT, Exchange, Reply
from invoker.http.limits import REQUEST_BYTES
from invoker.http.references import Reference
from invoker.http.rendering import render
from invoker.http.services import Services
from invoker.http.sizes import check_sizes
from invoker.model import Collection, Rule, RuleStatus, Trigger
from invoker.resolve import resolve_action


async def list_rules(services: Services, exchange: Exchange) -> Reply:
    """GET of the collection; a rule's status is told only by the rule itself."""
    return list_page(services, exchange, Collection.RULES, rule_entry)


async def get_rule(services: Services, exchange: Exchange) -> Reply:
    """GET: a rule and its status."""
    rule = find(services, exchange, Rule)
    return Reply(render(rule_document(rule, rule.status_under(_trigger_of(services, rule.trigger)))))


async def put_rule(services: Services, exchange: Exchange) -> Reply:
    """PUT: create a rule, active, or with `?overwrite=true` write it anew: its status stays."""
    check_put(exchange)
    body = await services.apart.read(parse_rule, check_sizes, await exchange.read_json(REQUEST_BYTES, required=True))
    named = {
        what: None if text is None else Reference.parse(text, own=exchange.namespace)
        for what, text in (("triggers", body.trigger), ("actions", body.action))
    }
    resources = [Resource(each.namespace, collection, each.path) for collection, each in named.items() if each is not None]
    authorise_all(services.entities, exchange.identity, Right.READ, resources)
    old = find_replaced(services, exchange, Rule)
    trigger_named = named["triggers"] or (None if old is None else Reference.of_path(old.trigger))
    action_named = named["actions"] or (None if old is None else Reference.of_path(old.action))
    if trigger_named is None or action_named is None:
        raise InvalidRequest("Creating a rule requires a valid trigger and a valid action.")
    trigger = _require_trigger(services, trigger_named)
    _require_action(services, action_named)
    now = now_ms(services)
    status, linked_ms = RuleStatus.ACTIVE, None
    if old is not None:
        status = old.status_under(_trigger_of(services, old.trigger))
        linked_ms = old.linked_ms if old.is_linked(trigger) else None
    rule = Rule(
        namespace=exchange.namespace,
        path=exchange.path,
        trigger=trigger_named.full_path,
        action=action_named.full_path,
        status=status,
        link=trigger.birth,
        linked_ms=_last_place(services, trigger, now) if linked_ms is None else linked_ms,
        **written_fields(old, body, now),
    )
    left = None if old is None else _linked_trigger(services, old)
    await services.entities.put(rule, expected_revision=None if old is None else old.revision)
    await _note_had_rules(services, left)
    return Reply(render(rule_document(rule, rule.status)))


async def set_rule_status(services: Services, exchange: Exchange) -> Reply:
    """POST: make a rule active or inactive. One that is made active runs after the trigger's others."""
    rule = find(services, exchange, Rule)
    wanted = _status(await services.apart.read(parse_status, None, await exchange.read_json(REQUEST_BYTES, required=True)))
    rule = find(services, exchange, Rule)  # others may have written while the body arrived
    trigger = _trigger_of(services, rule.trigger)
    if trigger is None:
        raise EntityNotFound("It is only possible to enable or disable rules with existing triggers.")
    if rule.is_linked(trigger) and rule.status is wanted:
        return _OK
    moves = wanted is RuleStatus.ACTIVE or not rule.is_linked(trigger)
    changed = msgspec.structs.replace(
        rule,
        revision=new_revision(),
        status=wanted,
        link=trigger.birth,
        linked_ms=_last_place(services, trigger, now_ms(services)) if moves else rule.linked_ms,
    )
    await services.entities.put(changed, expected_revision=rule.revision)
    return _OK


_OK = Reply(b"OK", content_type=TEXT)


async def delete_rule(services: Services, exchange: Exchange) -> Reply:
    """DELETE: in any state; answers with the rule as it was, inactive."""
    rule = find(services, exchange, Rule)
    left = _linked_trigger(services, rule)
    await services.entities.delete(rule)
    await _note_had_rules(services, left)
    return Reply(render(rule_document(rule, RuleStatus.INACTIVE)))


def _status(text: str) -> RuleStatus:
    try:
        return RuleStatus(text)
    except ValueError:
        raise MalformedContent.because(f"'{text}' is not a status: a rule can be made 'active' or 'inactive'") from None


def _trigger_of(services: Services, full_path: str) -> Trigger | None:
    """Find the trigger that a rule names; None when it is gone, or something else has its name."""
    reference = Reference.of_path(full_path)
    entity = services.entities.get(reference.namespace, reference.path)
    return entity if isinstance(entity, Trigger) else None


def _linked_trigger(services: Services, rule: Rule) -> Trigger | None:
    """Find the trigger that a rule is linked to."""
    trigger = _trigger_of(services, rule.trigger)
    return trigger if rule.is_linked(trigger) else None


async def _note_had_rules(services: Services, left: Trigger | None) -> None:
    """Have a trigger whose last rule has gone remember that it had some: OpenWhisk shows an empty `rules` then.

    Args:
        services: the parts.
        left: as it was before the rule went; others may have written it since.
    """
    if left is None:
        return
    trigger = _trigger_of(services, left.full_path)
    if trigger is None or trigger.birth != left.birth or trigger.had_rules or services.entities.rules_of(trigger):
        return
    noted = msgspec.structs.replace(trigger, revision=new_revision(), had_rules=True)
    await services.entities.put(noted, expected_revision=trigger.revision)


def _require_trigger(services: Services, reference: Reference) -> Trigger:
    trigger = _trigger_of(services, reference.full_path)
    if trigger is None:
        raise InvalidRequest(f"trigger /{reference.full_path} does not exist")
    return trigger


def _require_action(services: Services, reference: Reference) -> None:
    try:
        resolve_action(services.entities, reference.namespace, reference.path)
    except (EntityNotFound, WrongCollection):
        raise InvalidRequest(f"action /{reference.full_path} does not exist") from None


def _last_place(services: Services, trigger: Trigger, now: int) -> int:
    """Make the `linked_ms` of a rule that comes after all that the trigger has."""
    return max([now, *(rule.linked_ms + 1 for rule in services.entities.rules_of(trigger))])
