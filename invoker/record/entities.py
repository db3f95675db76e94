"""The entity store: namespaces and entities, whole in memory, written through to `entities.db`; code in files.

Reads are dictionary look-ups. A write changes memory first, in one step with the check of the revision, then waits for
the database; if that fails, memory goes back. So two writers of one entity never both win, without a lock.
"""

from __future__ import annotations

import builtins
import itertools
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

import msgspec

from invoker.errors import ConcurrentModification, EntityCorrupted, EntityNotFound
from invoker.model import PUBLISHED, Action, Collection, Entity, Namespace, Package, Rule, Trigger
from invoker.record.code_files import CodeFiles
from invoker.record.corruption import StoreCorrupt
from invoker.record.damage import Damage
from invoker.record.store import StoreBroken, Writer, load_queries

log = logging.getLogger(__name__)

#: Called with an entity before and after a change; None where there is none. May not raise nor wait.
Listener = Callable[[Entity | None, Entity | None], None]

#: The types of entity by their collection. Each has a tag, so that a row says what it is.
COLLECTIONS: dict[type[Entity], Collection] = {
    Action: Collection.ACTIONS,
    Package: Collection.PACKAGES,
    Trigger: Collection.TRIGGERS,
    Rule: Collection.RULES,
}

_decode_entity = msgspec.json.Decoder(Action | Package | Trigger | Rule).decode
_decode_namespace = msgspec.json.Decoder(Namespace).decode
_encode = msgspec.json.Encoder().encode
#: Namespace, collection, package: None is all of the collection, "" the default package, `PUBLISHED` a view.
_Order = tuple[str, Collection, str | None]


class EntityStore:
    """Open with `EntityStore.open`; one event loop uses it."""

    def __init__(self, writer: Writer, code: CodeFiles) -> None:
        """Begin empty; `open` loads."""
        self._writer = writer
        self._queries = load_queries("entities")
        self.code = code
        self._namespaces: dict[str, Namespace] = {}
        self._by_uuid: dict[str, Namespace] = {}
        #: One tree of names for each namespace, across collections.
        self._trees: dict[str, dict[str, Entity]] = {}
        #: What a list shows, by path, last written last: a write takes the entity out and puts it at the end, unless the
        #: time of its last write stays the same.
        self._orders: dict[_Order, dict[str, Entity]] = {}
        #: Rules by the trigger they name, then by their own path; full paths. Whether they are linked is told by `rules_of`.
        self._rules: dict[str, dict[str, Rule]] = {}
        #: How many entities use each code.
        self._code_uses: Counter[str] = Counter()
        self._listeners: list[Listener] = []
        #: Namespace and path of all and only the rows that cannot be read; of a namespace itself the path is empty.
        self._damaged: set[tuple[str, str]] = set()

    @classmethod
    async def open(cls, path: Path, code_dir: Path, damage: Damage | None = None) -> Self:
        """Open or make the database and the directory of code, load everything, delete code that nobody uses.

        A row that cannot be read is left out, and left where it is: its name answers `EntityCorrupted` until it is written anew.
        No code is deleted while something of this database is among the damage: it may be that of a lost entity.

        Args:
            path: of the database.
            code_dir: made when it is missing.
            damage: keeps what cannot be read; by default beside the database.

        Raises:
            StoreTooNew, StoreBroken: it cannot be used.
            StoreCorrupt: its file is damaged; or it is gone, and the code of its actions is not.
        """
        damage = damage or Damage(path.parent)
        _refuse_loss(path, code_dir)
        writer = await Writer.open(path, "entities")
        try:
            store = cls(writer, CodeFiles(code_dir))
            await store._load(damage)
            if store._damaged or damage.counts().get("entities"):
                log.warning("code that nobody seems to use is kept: an entity that is damaged or was lost may need it")
            else:
                await store.code.sweep(store._code_uses.keys())
        except BaseException:
            await writer.close()
            raise
        return store

    async def _load(self, damage: Damage) -> None:
        for name, text in await self._writer.fetch(self._queries["read_namespaces"], {}):
            try:
                namespace = _decode_namespace(text)
                _check_key(name, namespace.name)
            except (msgspec.MsgspecError, ValueError) as error:
                key = name.decode("utf-8", "replace")
                self._damaged.add((key, ""))
                damage.found(
                    "entities", f"namespace {key}", text, error, then="create it anew with the same uid: its entities stay"
                )
            else:
                self._remember_namespace(namespace)
        for owner, path, text in await self._writer.fetch(self._queries["read_entities"], {}):
            try:
                entity = _decode_entity(text)
                _check_key(owner, entity.namespace)
                _check_key(path, entity.path)
            except (msgspec.MsgspecError, ValueError) as error:
                key = (owner.decode("utf-8", "replace"), path.decode("utf-8", "replace"))
                self._damaged.add(key)
                damage.found("entities", "/".join(key), text, error, then="write it anew with overwrite=true")
            else:
                self._replace(None, entity)

    async def close(self) -> None:
        """Close the database. Everything is written already."""
        await self._writer.close()

    def on_change(self, listener: Listener) -> None:
        """Have `listener` called at each change of an entity, in the step that makes it visible."""
        self._listeners.append(listener)

    # ---- namespaces

    def get_namespace(self, name: str) -> Namespace | None:
        """Find a namespace by its name."""
        return self._namespaces.get(name)

    def get_namespace_by_uuid(self, uuid: str) -> Namespace | None:
        """Find a namespace by the user part of its key."""
        return self._by_uuid.get(uuid)

    @property
    def lacks_namespaces(self) -> bool:
        """Whether there is a namespace whose row cannot be read: what seems to be nobody's may be its."""
        return any(not path for _, path in self._damaged)

    def list_namespaces(self) -> builtins.list[Namespace]:
        """List all namespaces, by name."""
        return [self._namespaces[name] for name in sorted(self._namespaces)]

    async def put_namespace(self, namespace: Namespace) -> None:
        """Write a namespace over the one of its name.

        Raises:
            StoreBroken: it was not written, and memory is as before.
        """
        before = self._namespaces.get(namespace.name)
        self._forget_namespace(before)
        self._remember_namespace(namespace)
        parameters = {"name": namespace.name, "uuid": namespace.uuid, "value": _encode(namespace).decode()}
        try:
            await self._writer.execute(self._queries["put_namespace"], parameters)
        except StoreBroken:
            if self._namespaces.get(namespace.name) is namespace:
                self._forget_namespace(namespace)
                self._remember_namespace(before)
            raise
        self._damaged.discard((namespace.name, ""))

    async def delete_namespace(self, name: str) -> None:
        """Delete a namespace with its entities.

        Raises:
            EntityNotFound: there is none.
            StoreBroken: it is still in the database, and memory is as before.
        """
        namespace = self._namespaces.get(name)
        if namespace is None:
            raise EntityNotFound.named(name)
        entities = list(self._trees.get(name, {}).values())
        self._forget_namespace(namespace)
        for entity in entities:
            self._replace(entity, None)
        try:
            await self._writer.execute(self._queries["delete_namespace"], {"name": name})
        except StoreBroken:
            self._remember_namespace(namespace)
            for entity in sorted(entities, key=lambda each: each.updated):
                self._replace(None, entity)
            raise
        self._damaged = {each for each in self._damaged if each[0] != name}
        for entity in entities:
            self._drop_code(entity)

    # ---- entities

    def get(self, namespace: str, path: str) -> Entity | None:
        """Find an entity of any collection by its path, `[package/]name`.

        Raises:
            EntityCorrupted: there is one, and its row cannot be read.
        """
        tree = self._trees.get(namespace)
        entity = None if tree is None else tree.get(path)
        if entity is None and (namespace, path) in self._damaged:
            raise EntityCorrupted.named(f"{namespace}/{path}")
        return entity

    def list(
        self, namespace: str, collection: Collection, *, limit: int, skip: int = 0, package: str | None = None
    ) -> builtins.list[Entity]:
        """List entities, last written first. Costs O(limit + skip).

        Args:
            namespace: whose.
            collection: which kind.
            limit: at most so many.
            skip: after leaving out so many.
            package: None is all, packaged ones too; "" is the default package; `PUBLISHED` those packages that others see.
        """
        order = self._orders.get((namespace, collection, package), {})
        return list(itertools.islice(reversed(order.values()), skip, skip + limit))

    def count(self, namespace: str, collection: Collection, package: str | None = None) -> int:
        """Count what `list` would list without limit."""
        return len(self._orders.get((namespace, collection, package), ()))

    def rules_of(self, trigger: Trigger) -> builtins.list[Rule]:
        """List the rules that are linked to a trigger, inactive ones too, in the order in which they run."""
        rules = self._rules.get(trigger.full_path, {}).values()
        return sorted((rule for rule in rules if rule.is_linked(trigger)), key=lambda rule: (rule.linked_ms, rule.path))

    async def put(self, entity: Entity, *, expected_revision: str | None) -> None:
        """Write an entity over the one of this revision, or as a new one (None). It has a new revision itself.

        Raises:
            ConcurrentModification: what is there is something else; nothing was changed.
            StoreBroken: it was not written, and memory is as before.
        """
        before = self._find(entity.namespace, entity.path)
        if (None if before is None else before.revision) != expected_revision:
            raise ConcurrentModification
        self._replace(before, entity)
        parameters = {
            "namespace": entity.namespace,
            "path": entity.path,
            "collection": COLLECTIONS[type(entity)].value,
            "updated": entity.updated,
            "value": _encode(entity).decode(),
        }
        await self._write("put_entity", parameters, before, entity)
        self._damaged.discard((entity.namespace, entity.path))
        if (digest := _code_of(entity)) is not None and (before is None or _code_of(before) != digest):
            self.code.unpin(digest)
        self._drop_code(before)

    async def delete(self, entity: Entity) -> None:
        """Delete an entity, at the revision given.

        Raises:
            ConcurrentModification: what is there is something else; nothing was changed.
            StoreBroken: it is still in the database, and memory is as before.
        """
        before = self._find(entity.namespace, entity.path)
        if before is None or before.revision != entity.revision:
            raise ConcurrentModification
        self._replace(before, None)
        await self._write("delete_entity", {"namespace": entity.namespace, "path": entity.path}, before, None)
        self._drop_code(before)

    # ---- memory

    def _find(self, namespace: str, path: str) -> Entity | None:
        tree = self._trees.get(namespace)
        return None if tree is None else tree.get(path)

    async def _write(self, name: str, parameters: dict[str, str | int], before: Entity | None, after: Entity | None) -> None:
        try:
            await self._writer.execute(self._queries[name], parameters)
        except StoreBroken:
            changed = after or before
            assert changed is not None
            # A later writer may have won meanwhile; its entity stays.
            if self._find(changed.namespace, changed.path) is after:
                self._replace(after, before)
            raise

    def _replace(self, before: Entity | None, after: Entity | None) -> None:
        """Change one entity in memory, and tell the listeners."""
        if before is not None:
            self._take_out(before, stays=after is not None and after.updated == before.updated)
        if after is not None:
            self._put_in(after)
        for listener in self._listeners:
            listener(before, after)

    def _take_out(self, entity: Entity, *, stays: bool) -> None:
        """Take an entity out; one that `stays` keeps its place in the lists, for the next of its path."""
        del self._trees[entity.namespace][entity.path]
        if isinstance(entity, Rule):
            self._unlist_rule(entity)
        if not stays:
            for order in self._orders_of(entity):
                del order[entity.path]
        if (digest := _code_of(entity)) is not None:
            self._code_uses[digest] -= 1

    def _put_in(self, entity: Entity) -> None:
        self._trees.setdefault(entity.namespace, {})[entity.path] = entity
        if isinstance(entity, Rule):
            self._rules.setdefault(entity.trigger, {})[entity.full_path] = entity
        for order in self._orders_of(entity):
            order[entity.path] = entity
        if (digest := _code_of(entity)) is not None:
            self._code_uses[digest] += 1

    def _unlist_rule(self, rule: Rule) -> None:
        rules = self._rules[rule.trigger]
        del rules[rule.full_path]
        if not rules:
            del self._rules[rule.trigger]

    def _orders_of(self, entity: Entity) -> builtins.list[dict[str, Entity]]:
        views = [None, entity.package or ""]
        if isinstance(entity, Package) and entity.publish and entity.binding is None:
            views.append(PUBLISHED)
        collection = COLLECTIONS[type(entity)]
        return [self._orders.setdefault((entity.namespace, collection, view), {}) for view in views]

    def _remember_namespace(self, namespace: Namespace | None) -> None:
        if namespace is not None:
            self._namespaces[namespace.name] = namespace
            self._by_uuid[namespace.uuid] = namespace

    def _forget_namespace(self, namespace: Namespace | None) -> None:
        if namespace is not None:
            del self._namespaces[namespace.name]
            del self._by_uuid[namespace.uuid]

    def _drop_code(self, entity: Entity | None) -> None:
        """Delete the code of an entity that is gone, unless another one uses it."""
        digest = None if entity is None else _code_of(entity)
        if digest is not None and self._code_uses[digest] <= 0:
            del self._code_uses[digest]
            self.code.remove(digest)


def _refuse_loss(path: Path, code_dir: Path) -> None:
    """Refuse to begin with nothing where there was something: code that no entity uses would be deleted.

    Raises:
        StoreCorrupt: there is code, and no database, or an empty file.
    """
    is_new = not path.exists() or path.stat().st_size == 0
    if is_new and code_dir.is_dir() and any(code_dir.iterdir()):
        raise StoreCorrupt.found(path, f"it is missing or empty, but {code_dir} holds the code of its actions")


def _check_key(column: bytes, said: str) -> None:
    """Refuse a row whose value is of something else than its key."""
    if column != said.encode():
        raise ValueError(f"its value is that of '{said}'")


def _code_of(entity: Entity) -> str | None:
    return entity.exec.code if isinstance(entity, Action) else None
