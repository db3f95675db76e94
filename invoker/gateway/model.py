"""Values of the API gateway: an API, and its operations ready to be matched against requests. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import unquote

from invoker.errors import DocumentError
from invoker.gateway import swagger
from invoker.web.target import Extension

#: Where APIs are served: `/api/NAMESPACE/BASE-PATH/...`.
PREFIX = "api"
#: A namespace of this name could not be told from the version of the REST API.
UNSERVABLE_NAMESPACES = frozenset({"v1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """The web action behind an operation.

    Attributes:
        namespace: whose it is.
        package: empty for the default package.
        action: its name.
        extension: how its result becomes a response.
        passes_path: the action is told the request's path within the API, as `__ow_path`.
        secret: for `X-Require-Whisk-Auth`; None when the action asks for none.
    """

    namespace: str
    package: str
    action: str
    extension: Extension
    passes_path: bool = False
    secret: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PathTemplate:
    """A path of an API, with its operations.

    Attributes:
        template: as written, `/users/{id}`.
        segments: (text in front, whether a parameter follows, text behind) each.
        operations: backend by method, in capitals.
    """

    template: str
    segments: tuple[tuple[str, bool, str], ...]
    operations: Mapping[str, Backend]

    @classmethod
    def of(cls, template: str, operations: Mapping[str, Backend]) -> Self:
        """Compile a path.

        Raises:
            DocumentError: it cannot be served; says why.
        """
        return cls(template=template, segments=tuple(map(_compile, _split(template))), operations=operations)

    @property
    def parameters(self) -> int:
        """How many segments have a parameter: the fewer, the more particular."""
        return sum(has_parameter for _, has_parameter, _ in self.segments)

    def matches(self, path: Sequence[str]) -> bool:
        """Tell whether a path within the API, in decoded segments, is of this kind."""
        return len(path) == len(self.segments) and all(map(_fits, self.segments, path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One API of a namespace.

    Attributes:
        namespace_uuid: whose it is.
        base_path: begins with a slash, does not end with one, unless it is the root.
        document: OpenAPI 2.0, as it is shown.
        updated: milliseconds since the epoch.
        cors: whether any page may call it.
        paths: the most particular first.
    """

    namespace_uuid: str
    base_path: str
    document: Mapping[str, Any]
    updated: int
    cors: bool
    paths: tuple[PathTemplate, ...]

    @classmethod
    def of_document(cls, namespace_uuid: str, document: Mapping[str, Any], *, updated: int) -> Self:
        """Compile a document.

        Raises:
            DocumentError: it cannot be served; says what, where.
        """
        paths = [PathTemplate.of(path, _backends(document, path, item)) for path, item in document["paths"].items()]
        return cls(
            namespace_uuid=namespace_uuid,
            base_path=normal_base_path(document["basePath"]),
            document=document,
            updated=updated,
            cors=swagger.cors_enabled(document),
            paths=tuple(sorted(paths, key=lambda each: each.parameters)),
        )

    @property
    def name(self) -> str:
        """Its title."""
        return str(self.document["info"]["title"])

    def find(self, path: str) -> PathTemplate | None:
        """Find what a path within the API, as it came, means. A slash at its end makes no difference."""
        segments = _decoded(path)
        return next((each for each in self.paths if each.matches(segments)), None)

    def within(self, path: str) -> str | None:
        """Cut the base path off the path of a request, as it came; None when it is not of this API."""
        base = _split(self.base_path)
        parts = path.split("/")[1:]
        if [unquote(part) for part in parts[: len(base)]] != base:
            return None
        return "/" + "/".join(parts[len(base) :])


def normal_base_path(text: str) -> str:
    """Bring a base path to the form that it is stored and found by.

    Raises:
        DocumentError: it does not begin with a slash, or has an empty segment.
    """
    if not text.startswith("/"):
        raise DocumentError(f"the base path '{text}' does not begin with a slash")
    segments = _split(text)
    if not all(segments):
        raise DocumentError(f"the base path '{text}' has an empty segment")
    return "/" + "/".join(segments)


def _split(path: str) -> list[str]:
    trimmed = path.strip("/")
    return trimmed.split("/") if trimmed else []


def _decoded(path: str) -> list[str]:
    return [unquote(part) for part in _split(path)]


def _compile(segment: str) -> tuple[str, bool, str]:
    before, brace, rest = segment.partition("{")
    name, close, after = rest.partition("}")
    if not brace and "}" not in segment:
        return segment, False, ""
    if not name or not close or "{" in after or "}" in after or "}" in before:
        raise DocumentError(f"the path segment '{segment}' is none: it may hold one parameter, such as {{id}}")
    return before, True, after


def _fits(segment: tuple[str, bool, str], text: str) -> bool:
    before, has_parameter, after = segment
    if not has_parameter:
        return text == before
    return len(text) > len(before) + len(after) and text.startswith(before) and text.endswith(after)


def _backends(document: Mapping[str, Any], path: str, item: Mapping[str, Any]) -> dict[str, Backend]:
    return {
        method.upper(): Backend(
            namespace=found.namespace,
            package=found.package,
            action=found.action,
            extension=found.extension,
            passes_path="{" in path or found.passes_path,
            secret=swagger.secret_of(document, operation),
        )
        for method, operation in item.items()
        if method in swagger.METHODS
        for found in [swagger.backend_of(document, path, method, operation)]
    }
