"""Log forwarding, which Adobe's `aio rt` asks about before it reads the logs of an activation: here they stay.

Its paths lie outside of OpenWhisk's API: `/runtime/namespaces/NS/logForwarding`, and `/errors` below it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from invoker.errors import InvalidRequest, MalformedContent, NotAuthorised
from invoker.http.exchange import Reply, Request, read_body
from invoker.http.rendering import render
from invoker.http.services import Services

_SETTINGS_BYTES = 64 * 1024
#: In the words of `aio`: logs are kept where the actions run.
_KEPT_HERE: dict[str, dict[str, str]] = {"adobe_io_runtime": {}}


def is_forwarding(segments: Sequence[str], method: str) -> bool:
    """Tell whether a request is about log forwarding; `segments` are those of its path."""
    match tuple(segments):
        case ("runtime", "namespaces", _, "logForwarding"):
            return method in {"GET", "PUT"}
        case ("runtime", "namespaces", _, "logForwarding", "errors"):
            return method == "GET"
    return False


async def answer_forwarding(services: Services, request: Request, segments: Sequence[str]) -> Reply:
    """Tell that nothing is forwarded, or take note that nothing shall be.

    Raises:
        Unauthenticated: without a good key.
        NotAuthorised: another's namespace.
        MalformedContent, InvalidRequest: settings that ask for more.
    """
    namespace = services.authenticator.identify(request.headers.get("authorization")).namespace.name
    if segments[2] not in {"_", namespace}:
        raise NotAuthorised.for_resource(f"{segments[2]}/logForwarding")
    if segments[-1] == "errors":
        return Reply(render({"destination": "adobe_io_runtime", "errors": []}))
    if request.method == "PUT":
        try:
            wanted = msgspec.json.decode(await read_body(request, _SETTINGS_BYTES))
        except msgspec.DecodeError as error:
            raise MalformedContent.because(str(error)) from error
        if wanted != _KEPT_HERE:
            raise InvalidRequest('This server forwards no logs: the only settings it takes are {"adobe_io_runtime":{}}.')
    return Reply(render(_KEPT_HERE))
