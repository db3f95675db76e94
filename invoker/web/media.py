"""Media types, as far as web actions need them: what is text, what is JSON, what a client accepts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_TYPE = re.compile(rf"\s*({_NAME})/({_NAME})\s*((?:;.*)?)", re.DOTALL)
_PARAMETER = re.compile(rf'\s*;\s*({_NAME})\s*=\s*({_NAME}|"(?:[^"\\]|\\.)*")\s*')
#: Subtypes of `application` that hold text; OpenWhisk counts all others as binary, also `image/svg+xml`.
_TEXT_SUBTYPES = frozenset({"json", "xml", "javascript", "x-javascript", "ecmascript", "x-www-form-urlencoded", "graphql"})


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaType:
    """A media type with its parameters; type and subtype in lower case."""

    main: str
    sub: str
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def essence(self) -> str:
        """`type/subtype`."""
        return f"{self.main}/{self.sub}"

    @property
    def is_json(self) -> bool:
        """`application/json`, or any `+json`."""
        return self.essence == "application/json" or self.sub.endswith("+json")

    @property
    def is_text(self) -> bool:
        """Whether a body of this type is text; every other one is bytes."""
        if self.main == "text" or self.is_json:
            return True
        return self.main == "application" and (self.sub in _TEXT_SUBTYPES or self.sub.endswith("+xml"))

    @property
    def is_form(self) -> bool:
        """A form's fields, as a browser sends them."""
        return self.essence == "application/x-www-form-urlencoded"

    def as_utf8(self) -> str:
        """Write it for a body in UTF-8: text says so, but for JSON, which is nothing else."""
        kept = [(name, value) for name, value in self.parameters if name.lower() != "charset"]
        if self.is_text and not self.is_json:
            kept.append(("charset", "UTF-8"))
        return "; ".join([self.essence, *(f"{name}={value}" for name, value in kept)])

    def as_given(self) -> str:
        """Write it with its parameters."""
        return "; ".join([self.essence, *(f"{name}={value}" for name, value in self.parameters)])


def parse_media_type(text: str) -> MediaType | None:
    """Read a media type; None when it is none."""
    match = _TYPE.fullmatch(text)
    if match is None:
        return None
    parameters = []
    rest = match[3].rstrip().removesuffix(";")
    while rest:
        parameter = _PARAMETER.match(rest)
        if parameter is None:
            return None
        parameters.append((parameter[1], parameter[2]))
        rest = rest[parameter.end() :]
    return MediaType(main=match[1].lower(), sub=match[2].lower(), parameters=tuple(parameters))


def accepts(accept: str | None, media: str) -> bool:
    """Tell whether a client with this `Accept` header takes a media type.

    The most specific range that fits decides, and `q=0` refuses. A header that is no list of ranges accepts everything.

    Args:
        accept: None, or empty, accepts everything.
        media: `type/subtype`, parameters are not looked at.
    """
    if accept is None or not accept.strip():
        return True
    main, _, sub = media.partition(";")[0].strip().partition("/")
    best: tuple[int, bool] = (0, False)
    ranges = [_range(part) for part in accept.split(",") if part.strip()]
    if any(each is None for each in ranges):
        return True
    for each in ranges:
        assert each is not None
        specific = _specificity(each, main, sub)
        if specific > best[0]:
            best = (specific, _weight(each.parameters) > 0)
    return best[1]


def _range(text: str) -> MediaType | None:
    return parse_media_type("*/*" + text.strip()[1:] if text.strip().partition(";")[0].strip() == "*" else text)


def _specificity(each: MediaType, main: str, sub: str) -> int:
    """How closely a range fits a type: 3 exactly, 2 by its type, 1 as anything, 0 not at all."""
    if (each.main, each.sub) == (main.lower(), sub.lower()):
        return 3
    if (each.main, each.sub) == (main.lower(), "*"):
        return 2
    return 1 if (each.main, each.sub) == ("*", "*") else 0


def _weight(parameters: Sequence[tuple[str, str]]) -> float:
    for name, value in parameters:
        if name.lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 1.0
    return 1.0
