"""POST of a trigger: fire it."""

from __future__ import annotations

from invoker.errors import EntityNotFound, WrongCollection
from invoker.http.exchange import Exchange, Reply
from invoker.http.parsing import check_name, parse_payload
from invoker.http.rendering import clean_text, render_accepted
from invoker.http.services import Services
from invoker.model import Trigger


async def fire_trigger(services: Services, exchange: Exchange) -> Reply:
    """POST: 202 with the id of the trigger's record; 204 when no rule of it is active. A payload too large is refused first."""
    body = await exchange.read_json(services.limits().payload_bytes, required=False)
    payload = parse_payload(body)
    trigger = services.entities.get(exchange.namespace, check_name(exchange.path))
    if not isinstance(trigger, Trigger):
        raise EntityNotFound if trigger is None else WrongCollection
    headers = {name: clean_text(value) for name, value in exchange.http.headers.items()}
    activation_id = await services.triggers.fire(
        exchange.identity, trigger, payload, headers=headers, transaction=exchange.transaction
    )
    if activation_id is None:
        return Reply(b"", 204, content_type="")
    return Reply(render_accepted(activation_id), 202, headers={"x-openwhisk-activation-id": activation_id})
