"""The triggers of the API as documents: create, read, update, delete, list. Firing them is another module's."""

from __future__ import annotations

import os

import msgspec

from invoker.errors import InvalidRequest
from invoker.http.bodies import EntityBody, parse_trigger
from invoker.http.documents import trigger_document, trigger_entry
from invoker.http.entities import check_put, find, find_replaced, list_page, now_ms, seal, shown, written_fields
from invoker.http.exchange import Exchange, Reply
from invoker.http.limits import REQUEST_BYTES
from invoker.http.parsing import is_name
from invoker.http.rendering import render
from invoker.http.services import Services
from invoker.http.sizes import check_sizes
from invoker.model import Annotation, Collection, Trigger

#: Its value names the action that feeds the trigger. Clients call that action; here it is only a name.
FEED = "feed"


async def list_triggers(services: Services, exchange: Exchange) -> Reply:
    """GET of the collection."""
    return list_page(services, exchange, Collection.TRIGGERS, trigger_entry)


async def get_trigger(services: Services, exchange: Exchange) -> Reply:
    """GET: a trigger, with the rules that are linked to it."""
    return _answer(services, exchange, find(services, exchange, Trigger))


async def put_trigger(services: Services, exchange: Exchange) -> Reply:
    """PUT: create a trigger, or with `?overwrite=true` write it anew; its rules stay linked."""
    check_put(exchange)
    body = await services.apart.read(parse_trigger, check_sizes, await exchange.read_json(REQUEST_BYTES, required=True))
    old = find_replaced(services, exchange, Trigger)
    body = seal(services, exchange, body, old)
    trigger = write_trigger(old, body, namespace=exchange.namespace, name=exchange.path, now=now_ms(services))
    await services.entities.put(trigger, expected_revision=None if old is None else old.revision)
    return _answer(services, exchange, trigger)


async def delete_trigger(services: Services, exchange: Exchange) -> Reply:
    """DELETE: answers with the trigger as it was. Its rules stay, inactive."""
    trigger = find(services, exchange, Trigger)
    reply = _answer(services, exchange, trigger)
    await services.entities.delete(trigger)
    return reply


def write_trigger(old: Trigger | None, body: EntityBody, *, namespace: str, name: str, now: int) -> Trigger:
    """Make a new trigger, or the next version of one.

    Args:
        old: what is replaced; None for a new one.
        body: what the client sent, sizes checked.
        namespace: the owner.
        name: within it.
        now: wall clock, milliseconds.

    Raises:
        InvalidRequest: a new one whose feed is no name.
    """
    if old is None:
        for annotation in body.annotations or ():
            _check_feed(annotation)
    birth = os.urandom(8).hex() if old is None else old.birth
    had_rules = old is not None and old.had_rules
    return Trigger(namespace=namespace, path=name, birth=birth, had_rules=had_rules, **written_fields(old, body, now))


def _check_feed(annotation: Annotation) -> None:
    """Refuse a feed that could be no action: `[/][namespace/[package/]]name`; whether it is one is for the client to find out."""
    if annotation.key != FEED:
        return
    value = msgspec.json.decode(annotation.value)
    segments = value.removeprefix("/").split("/") if isinstance(value, str) else []
    if not segments or not all(is_name(segment) for segment in segments):
        raise InvalidRequest("Feed name is not valid: it must be a string such as /namespace/package/name.")


def _answer(services: Services, exchange: Exchange, trigger: Trigger) -> Reply:
    return Reply(render(trigger_document(shown(services, exchange, trigger), services.entities.rules_of(trigger))))
