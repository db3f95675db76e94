"""Which web action a URL means: `/api/v1/web/NAMESPACE/PACKAGE/ACTION[.EXTENSION][/PATH]`."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from urllib.parse import unquote

from invoker.http.parsing import origin_form

#: The package segment that means no package.
DEFAULT_PACKAGE = "default"
#: Slashes in front of what follows the action.
_SLASHES = 7


class Extension(enum.Enum):
    """How an action's result becomes a response; the value is the URL's extension without its dot."""

    HTTP = "http"
    JSON = "json"
    HTML = "html"
    SVG = "svg"
    TEXT = "text"


_BY_NAME = {extension.value: extension for extension in Extension}


@dataclass(frozen=True, slots=True, kw_only=True)
class WebTarget:
    """A web action's URL, taken apart.

    Attributes:
        namespace: whose action it is, as in the URL.
        package: empty for the default package.
        action: its name, without extension.
        extension: of the URL; `http` when there is none.
        path: what follows the action, as it came: empty, or begins with a slash.
        query: as it came, without the question mark.
    """

    namespace: str
    package: str
    action: str
    extension: Extension
    path: str
    query: str

    @property
    def entity_path(self) -> str:
        """Path of the action within its namespace."""
        return f"{self.package}/{self.action}" if self.package else self.action


def parse_web_target(target: str) -> WebTarget | None:
    """Take a request target apart; None when it names no web action: too few segments, or an empty one.

    An extension that we do not know is part of the action's name.
    """
    path, _, query = origin_form(target).partition("?")
    parts = path.split("/", _SLASHES)
    if len(parts) < _SLASHES or parts[1:4] != ["api", "v1", "web"]:
        return None
    namespace, package, last = (unquote(part) for part in parts[4:7])
    if not (namespace and package and last):
        return None
    action, extension = split_extension(last)
    return WebTarget(
        namespace=namespace,
        package="" if package == DEFAULT_PACKAGE else package,
        action=action,
        extension=extension,
        path=f"/{parts[7]}" if len(parts) > _SLASHES else "",
        query=query,
    )


def split_extension(segment: str) -> tuple[str, Extension]:
    """Split the last segment of an action's URL into its name and its extension."""
    name, _, extension = segment.rpartition(".")
    if name and extension in _BY_NAME:
        return name, _BY_NAME[extension]
    return segment, Extension.HTTP
