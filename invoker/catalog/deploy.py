"""The standard packages of `whisk.system`: installed at each start, so that the catalog is that of this version.

A package is a directory with a `package.toml`: `description`, `bound` (parameters) and `[actions.NAME]` with `description`,
`parameters` (told to users), `kind` (`python:default`), `file` (`NAME.py`), `bound`, `annotations`, `gives_api_key`. What is
installed bears the annotation `catalog`; an entity of an operator's own in its place is left alone.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec

from invoker.errors import EntityCorrupted, RuntimeDeprecated, RuntimeNotSupported
from invoker.http.bodies import next_patch
from invoker.manifest import BUILTIN, Manifest
from invoker.model import Action, Annotation, Collection, Entity, Exec, Namespace, Package, Parameter
from invoker.record.code_files import CodeFiles

log = logging.getLogger(__name__)

#: Whose the packages are.
SYSTEM = "whisk.system"
#: Nobody runs anything as this namespace: actions of shared packages run as who calls them.
NOBODY = 65534
#: Marks what was installed from here.
MARK = "catalog"
DIRECTORY = Path(__file__).parent
_PAGE = 200


class Store(Protocol):
    """What is needed of the entity store."""

    @property
    def code(self) -> CodeFiles:
        """Where code is."""

    def get_namespace(self, name: str) -> Namespace | None:
        """Find a namespace by its name."""

    async def put_namespace(self, namespace: Namespace) -> None:
        """Write a namespace."""

    def get(self, namespace: str, path: str) -> Entity | None:
        """Find an entity."""

    def list(self, namespace: str, collection: Collection, *, limit: int, skip: int = 0) -> list[Entity]:
        """List entities."""

    async def put(self, entity: Entity, *, expected_revision: str | None) -> None:
        """Write an entity."""

    async def delete(self, entity: Entity) -> None:
        """Delete an entity."""


class Wanted(msgspec.Struct, frozen=True):
    """An entity of the catalog, and its code."""

    entity: Package | Action
    code: str | None = None


def read_catalog(manifest: Manifest, directory: Path = DIRECTORY) -> list[Wanted]:
    """Read what the catalog says; packages before their actions. Actions of kinds that the node lacks are left out."""
    wanted: list[Wanted] = []
    for path in sorted(directory.glob("*/package.toml")):
        name, told = path.parent.name, tomllib.loads(path.read_text("utf-8"))
        package = Package(
            namespace=SYSTEM,
            path=name,
            revision="",
            updated=0,
            publish=True,
            annotations=_annotations({MARK: True, "description": told["description"]}),
            parameters=_bound(told),
        )
        wanted.append(Wanted(package))
        wanted += [each for action, of_it in told["actions"].items() if (each := _action(path.parent, action, of_it, manifest))]
    return wanted


async def deploy_catalog(
    store: Store, manifest: Manifest, *, make_key: Callable[[], tuple[str, str]], now_ms: int, directory: Path = DIRECTORY
) -> int:
    """Install the catalog: write what is new or has changed, delete what it has no more. Idempotent.

    Args:
        store: of entities.
        manifest: the node's kinds.
        make_key: makes (uuid, hash of a key) of the namespace, should it be missing. Nobody is told the key; an operator who
            wants one rotates it.
        now_ms: wall clock.
        directory: of the catalog.

    Returns:
        How many entities were written or deleted.
    """
    if store.get_namespace(SYSTEM) is None:
        uuid, key_hash = make_key()
        await store.put_namespace(Namespace(name=SYSTEM, uuid=uuid, key_hash=key_hash, uid=NOBODY, gid=NOBODY, created_ms=now_ms))
    wanted = read_catalog(manifest, directory)
    changed = 0
    for each in wanted:
        changed += await _install(store, each, now_ms)
    paths = {each.entity.path for each in wanted}
    for collection in (Collection.ACTIONS, Collection.PACKAGES):
        for entity in _all(store, collection):
            if entity.path not in paths and entity.annotation(MARK):
                await store.delete(entity)
                changed += 1
    return changed


async def _install(store: Store, wanted: Wanted, now_ms: int) -> bool:
    """Write one entity unless it is there already, as it should be."""
    entity = wanted.entity
    try:
        old = store.get(SYSTEM, entity.path)
    except EntityCorrupted:  # a copy of its row is kept; here is a sound one
        old = None
    if old is not None and not old.annotation(MARK):
        log.warning("%s is not the catalog's, and is left as it is", old.full_path)
        return False
    if old is not None and msgspec.structs.replace(old, revision="", version=entity.version, updated=0) == entity:
        return False
    if wanted.code is not None:
        await store.code.put(wanted.code)
    entity = msgspec.structs.replace(
        entity,
        revision=secrets.token_hex(16),
        version=entity.version if old is None else next_patch(old.version),
        updated=now_ms if old is None else max(now_ms, old.updated + 1),
    )
    await store.put(entity, expected_revision=None if old is None else old.revision)
    return True


def _all(store: Store, collection: Collection) -> list[Entity]:
    found: list[Entity] = []
    while page := store.list(SYSTEM, collection, limit=_PAGE, skip=len(found)):
        found += page
    return found


def _action(directory: Path, name: str, told: Mapping[str, Any], manifest: Manifest) -> Wanted | None:
    kind = told.get("kind", "python:default")
    code = None
    if kind != BUILTIN:
        try:
            kind = manifest.resolve(kind).kind
        except (RuntimeNotSupported, RuntimeDeprecated) as error:
            log.info("/%s/%s/%s is left out: %s", SYSTEM, directory.name, name, error)
            return None
        code = (directory / told.get("file", f"{name}.py")).read_text("utf-8")
    annotations = {
        MARK: True,
        "description": told["description"],
        **({"parameters": told["parameters"]} if "parameters" in told else {}),
        **told.get("annotations", {}),
        "provide-api-key": told.get("gives_api_key", False),
        "exec": kind,
    }
    digest = None if code is None else hashlib.sha256(code.encode()).hexdigest()
    action = Action(
        namespace=SYSTEM,
        path=f"{directory.name}/{name}",
        revision="",
        updated=0,
        publish=True,
        annotations=_annotations(annotations),
        parameters=_bound(told),
        exec=Exec(kind=kind, code=digest, code_bytes=len(code.encode()) if code else 0),
    )
    return Wanted(action, code)


def _annotations(values: Mapping[str, Any]) -> tuple[Annotation, ...]:
    return tuple(Annotation(key=key, value=_raw(value)) for key, value in values.items())


def _bound(told: Mapping[str, Any]) -> tuple[Parameter, ...]:
    return tuple(Parameter(key=key, value=_raw(value)) for key, value in told.get("bound", {}).items())


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
