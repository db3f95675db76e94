"""The store of the API gateway: documents whole in memory, written through to `apis.db`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import msgspec

from invoker.errors import DocumentError
from invoker.gateway.model import Api
from invoker.record.damage import Damage
from invoker.record.store import StoreBroken, Writer, load_queries


class ApiStore:
    """Open with `ApiStore.open`; one event loop uses it."""

    def __init__(self, writer: Writer) -> None:
        """Begin empty; `open` loads."""
        self._writer = writer
        self._queries = load_queries("apis")
        #: By the namespace's uuid and the base path.
        self._apis: dict[str, dict[str, Api]] = {}

    @classmethod
    async def open(cls, path: Path, *, namespaces: Iterable[str] | None, damage: Damage | None = None) -> Self:
        """Open or make the database and load everything. What belonged to a namespace that is gone is deleted.

        Args:
            path: of the database.
            namespaces: uuids of those that exist; None when it is not known of all.
            damage: keeps what cannot be read; by default beside the database.

        Raises:
            StoreTooNew, StoreBroken: it cannot be used.
        """
        damage = damage or Damage(path.parent)
        writer = await Writer.open(path, "apis")
        try:
            store = cls(writer)
            if namespaces is not None:
                uuids = msgspec.json.encode(sorted(namespaces)).decode()
                await writer.execute(store._queries["delete_apis_of_the_gone"], {"uuids": uuids})
            for uuid, base_path, updated, document in await writer.fetch(store._queries["read_apis"], {}):
                try:
                    api = Api.of_document(uuid, msgspec.json.decode(document), updated=updated)
                except (msgspec.MsgspecError, DocumentError) as error:
                    damage.found("apis", f"{uuid} {base_path}", document, error, then="create the API anew")
                else:
                    store._apis.setdefault(uuid, {})[base_path] = api
        except BaseException:
            await writer.close()
            raise
        return store

    async def close(self) -> None:
        """Close the database. Everything is written already."""
        await self._writer.close()

    def get(self, namespace_uuid: str, base_path: str) -> Api | None:
        """Find an API."""
        return self._apis.get(namespace_uuid, {}).get(base_path)

    def list(self, namespace_uuid: str) -> Sequence[Api]:
        """List the APIs of a namespace, by base path."""
        apis = self._apis.get(namespace_uuid, {})
        return [apis[base_path] for base_path in sorted(apis)]

    async def put(self, api: Api) -> None:
        """Write an API over the one of its base path. It is visible before this first waits.

        Raises:
            StoreBroken: it was not written, and memory is as before.
        """
        await self._change(api, api)

    async def delete(self, api: Api) -> None:
        """Delete an API; one that is not there is no failure.

        Raises:
            StoreBroken: it is still in the database, and memory is as before.
        """
        await self._change(api, None)

    async def _change(self, api: Api, after: Api | None) -> None:
        before = self.get(api.namespace_uuid, api.base_path)
        self._set(api, after)
        parameters: dict[str, str | int] = {"namespace_uuid": api.namespace_uuid, "base_path": api.base_path}
        if after is not None:
            parameters |= {"updated": after.updated, "document": msgspec.json.encode(after.document).decode()}
        try:
            await self._writer.execute(self._queries["delete_api" if after is None else "put_api"], parameters)
        except StoreBroken:
            if self.get(api.namespace_uuid, api.base_path) is after:  # a later writer may have won meanwhile
                self._set(api, before)
            raise

    def _set(self, key: Api, value: Api | None) -> None:
        apis = self._apis.setdefault(key.namespace_uuid, {})
        if value is not None:
            apis[key.base_path] = value
        else:
            apis.pop(key.base_path, None)
