"""The kinds of action this node can run: OpenWhisk's runtimes manifest, read once.

The format is upstream's `runtimes.json`: families of kinds, each with image, default, deprecated, stem cells; and `blackboxes`,
the images that `--native` actions name and which we run in a black-box runtime of our own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from invoker.errors import InvalidRequest, RuntimeDeprecated, RuntimeNotSupported
from pool.errors import PlatformError
from pool.model import Reactive

#: The manifest that comes with the daemon.
PACKAGED = Path(__file__).with_name("runtimes.json")

BLACKBOX = "blackbox"
#: Of actions that the daemon carries out itself; nobody can create one.
BUILTIN = "builtin"
SEQUENCE = "sequence"

_UNITS_MIB = {"B": 1 / (1024 * 1024), "KB": 1 / 1024, "MB": 1, "GB": 1024}


class ManifestError(PlatformError):
    """The runtimes manifest cannot be used."""

    code = "bad-manifest"


class _Image(msgspec.Struct, frozen=True):
    """`[registry/][prefix/]name[:tag][@digest]`, in parts."""

    name: str
    prefix: str = ""
    tag: str = ""
    registry: str = ""
    digest: str = ""

    @property
    def reference(self) -> str:
        """As one string."""
        path = "/".join(part.strip("/") for part in (self.registry, self.prefix, self.name) if part)
        return path + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


class _Reactive(msgspec.Struct, frozen=True, rename="camel"):
    """How a number of stem cells follows demand, as written."""

    max_count: int
    min_count: int = 0
    ttl: str = "10 minutes"
    threshold: int = 1
    increment: int = 1


class _StemCell(msgspec.Struct, frozen=True, rename="camel"):
    """How many stem cells of one size; `count` is the name of older manifests."""

    memory: str
    initial_count: int = 0
    count: int = 0
    reactive: _Reactive | None = None


class _Kind(msgspec.Struct, frozen=True, rename="camel"):
    """One kind, as written."""

    kind: str
    image: _Image | str
    default: bool = False
    deprecated: bool = False
    attached: Any = None
    require_main: bool = False
    concurrent: bool = False
    stem_cells: tuple[_StemCell, ...] = ()


class _File(msgspec.Struct, frozen=True):
    """The whole file; unknown keys are ignored."""

    runtimes: dict[str, tuple[_Kind, ...]]
    blackboxes: tuple[_Image | str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StemCells:
    """How many stem cells of one runtime to keep.

    Attributes:
        memory_mib: size of each.
        count: at least 1.
        reactive: how the number follows demand; None: it does not.
    """

    memory_mib: int
    count: int
    reactive: Reactive | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """One kind.

    Attributes:
        kind: `family:version`.
        image: reference of the image its containers are made from.
        default: what `family:default` means.
        deprecated: actions of it can be read and deleted only.
        attached: code is stored apart from the entity; told to clients, without meaning here.
        require_main: an action must name its entry point.
        concurrent: a container of it can run several activations at the same time; of other kinds one after the other.
    """

    kind: str
    family: str
    image: str
    default: bool = False
    deprecated: bool = False
    attached: bool = False
    require_main: bool = False
    concurrent: bool = False
    stem_cells: tuple[StemCells, ...] = ()


class Manifest:
    """All kinds, and what their names mean.

    Attributes:
        runtimes: by kind.
        families: kinds by family, in the file's order.
        blackboxes: images that mean our own black-box runtime, without the tag `latest`.
    """

    def __init__(self, families: Mapping[str, tuple[Runtime, ...]], blackboxes: tuple[str, ...]) -> None:
        self.families = dict(families)
        self.runtimes = {runtime.kind: runtime for family in families.values() for runtime in family}
        self.blackboxes = frozenset(_without_latest(image) for image in blackboxes)

    @classmethod
    def load(cls, path: Path = PACKAGED) -> Manifest:
        """Read a file.

        Raises:
            ManifestError: it cannot be read, or says what cannot be; the message names the place.
        """
        try:
            return cls.parse(path.read_bytes())
        except (OSError, ManifestError) as error:
            raise ManifestError(f"{path}: {error}") from error

    @classmethod
    def parse(cls, text: bytes) -> Manifest:
        """Take a manifest from its JSON text.

        Raises:
            ManifestError: as `load`.
        """
        try:
            file = msgspec.json.decode(text, type=_File)
        except msgspec.MsgspecError as error:
            raise ManifestError(str(error)) from error
        families = {family: tuple(_runtime(family, kind) for kind in kinds) for family, kinds in file.runtimes.items()}
        for family, kinds in families.items():
            if len(kinds) > 1 and sum(kind.default for kind in kinds) != 1:
                raise ManifestError(f"family {family!r} has {len(kinds)} kinds: exactly one of them must be the default")
        names = [runtime.kind for kinds in families.values() for runtime in kinds]
        reserved = {BLACKBOX, SEQUENCE, BUILTIN}
        if len(set(names)) != len(names) or not reserved.isdisjoint(names):
            raise ManifestError(f"kinds must differ, and be none of {', '.join(sorted(reserved))}: {sorted(names)}")
        return cls(families, tuple(_reference(image) for image in file.blackboxes))

    @property
    def kinds(self) -> frozenset[str]:
        """All that an action may be of."""
        return frozenset((*self.runtimes, BLACKBOX, SEQUENCE))

    def is_native(self, image: str) -> bool:
        """Tell whether a black box's image is a name for our own black-box runtime. The tag `latest` is the same as none."""
        return _without_latest(image) in self.blackboxes

    def resolve(self, kind: str) -> Runtime:
        """Find the runtime that a client's kind means, for an action that is being written.

        Args:
            kind: any case, blanks around it allowed; `family:default` is the family's default.

        Raises:
            RuntimeNotSupported: with the kinds there are.
            RuntimeDeprecated: no new actions of it.
        """
        name = kind.strip().lower()
        family, colon, version = name.partition(":")
        if colon and version == "default" and family in self.families:
            kinds = self.families[family]
            return self._usable(next((each for each in kinds if each.default), kinds[0]).kind)
        return self._usable(name)

    def check(self, kind: str) -> None:
        """Refuse to run an action whose kind has gone, or is deprecated.

        Raises:
            RuntimeNotSupported, RuntimeDeprecated.
        """
        runtime = self.runtimes.get(kind)
        if (runtime is None or runtime.deprecated) and kind not in {BLACKBOX, SEQUENCE, BUILTIN}:
            self._usable(kind)

    def _usable(self, kind: str) -> Runtime:
        runtime = self.runtimes.get(kind)
        if runtime is None:
            valid = "', '".join(sorted(self.kinds))
            raise RuntimeNotSupported(
                f"The specified runtime '{kind}' is not supported by this platform. Valid values are '{valid}'."
            )
        if runtime.deprecated:
            raise RuntimeDeprecated(
                f"The {kind} runtime is no longer supported. You may read and delete but not update or invoke this action."
            )
        return runtime


#: Docker's grammar: optional registry, path of lower-case components, optional tag and digest.
_IMAGE = re.compile(
    r"(?P<name>"
    r"(?:(?:localhost|[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)+|[a-zA-Z0-9-]+(?=:\d))(?::\d+)?/)?"
    r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*)*"
    r")(?P<tag>:[\w][\w.-]{0,127})?(?P<digest>@[A-Za-z][A-Za-z0-9]*(?:[+._-][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?",
    re.ASCII,
)


def check_image(image: str) -> str:
    """Return an image reference without blanks around it.

    Raises:
        InvalidRequest: it is none.
    """
    text = image.strip()
    if not _IMAGE.fullmatch(text):
        raise InvalidRequest(f"could not parse image name '{image}'")
    return text


def without_digest(image: str) -> str:
    """Cut the digest off a reference: what clients are shown, as upstream shows it."""
    return image.partition("@")[0]


def _without_latest(image: str) -> str:
    return image.removesuffix(":latest")


def _reference(image: _Image | str) -> str:
    return image if isinstance(image, str) else image.reference


def _runtime(family: str, written: _Kind) -> Runtime:
    return Runtime(
        kind=written.kind,
        family=family,
        image=_reference(written.image),
        default=written.default,
        deprecated=written.deprecated,
        attached=written.attached is not None,
        require_main=written.require_main,
        concurrent=written.concurrent,
        stem_cells=tuple(
            StemCells(
                memory_mib=_memory_mib(cell.memory), count=cell.initial_count or cell.count, reactive=_reactive(cell.reactive)
            )
            for cell in written.stem_cells
            if cell.initial_count or cell.count
        ),
    )


def _reactive(written: _Reactive | None) -> Reactive | None:
    """Take over how stem cells follow demand; upstream asks for the same (`reactive` in its `runtimes.json`)."""
    if written is None:
        return None
    if not 0 <= written.min_count <= written.max_count or written.threshold < 1 or written.increment < 1:
        raise ManifestError("reactive: 0 <= minCount <= maxCount, threshold >= 1 and increment >= 1 must hold")
    return Reactive(
        least=written.min_count,
        most=written.max_count,
        ttl_s=_seconds(written.ttl),
        threshold=written.threshold,
        increment=written.increment,
    )


_UNITS_S = {"ms": 0.001, "millisecond": 0.001, "s": 1, "second": 1, "m": 60, "minute": 60, "h": 3600, "hour": 3600, "d": 86_400}


def _seconds(text: str) -> float:
    """Read `2 minutes`."""
    match = re.fullmatch(r"\s*(\d+)\s*([a-z]+?)s?\s*", text.lower())
    if match is None or (match[2] or "s") not in _UNITS_S:
        raise ManifestError(f"{text!r} is no time, such as '2 minutes'")
    return int(match[1]) * _UNITS_S[match[2]]


def _memory_mib(text: str) -> int:
    """Read `256 MB`; upstream's MB is 2**20 bytes."""
    match = re.fullmatch(r"\s*(\d+)\s*([KMG]?B)\s*", text.upper())
    if match is None:
        raise ManifestError(f"{text!r} is no size of memory, such as '256 MB'")
    return max(1, round(int(match[1]) * _UNITS_MIB[match[2]]))
