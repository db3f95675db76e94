"""Actions of the catalog that the daemon carries out itself, because only it knows what they tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec

from invoker.invocation import Builtin
from invoker.model import Identity

_decode = msgspec.json.Decoder(dict[str, Any]).decode


def catalog_builtins(public_url: Callable[[], str]) -> dict[str, Builtin]:
    """Make them, by full path.

    Args:
        public_url: where clients find this server, without a slash at the end: `__OW_API_HOST` is a container's own door.
    """

    async def hosturl(identity: Identity, arguments: msgspec.Raw) -> msgspec.Raw:
        url = url_of(public_url(), identity.namespace.name, _decode(arguments))
        return msgspec.Raw(msgspec.json.encode({"url": url}))

    return {"whisk.system/utils/hosturl": hosturl}


def url_of(host: str, namespace: str, arguments: dict[str, Any]) -> str:
    """Make the URL of the server itself, of a trigger, of a web action, or of an action in the REST API.

    Args:
        host: public URL of this server.
        namespace: of the caller.
        arguments: `path`, `trigger`, `web` (yes unless given), `ext`, as the catalog describes them.
    """
    path = str(arguments.get("path") or "").strip("/")
    if not path:
        return host
    name = quote(path)
    if arguments.get("trigger"):
        return f"{host}/api/v1/namespaces/{namespace}/triggers/{name}"
    if arguments.get("web", True):
        name = name if "/" in name else f"default/{name}"
        extension = f".{str(arguments['ext']).lstrip('.')}" if arguments.get("ext") else ""
        return f"{host}/api/v1/web/{namespace}/{name}{extension}"
    return f"{host}/api/v1/namespaces/{namespace}/actions/{name}"
