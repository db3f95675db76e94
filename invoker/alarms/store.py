"""The alarms on the disk, `alarms.db`: whole in memory, written through.

How far each has come stands elsewhere: a tick goes into the journal with what it fires, in one record, and from there into
the activation store (`recorder.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import msgspec

from invoker.alarms.alarm import Alarm
from invoker.record.damage import Damage
from invoker.record.store import Writer, load_queries

_decode = msgspec.json.Decoder(Alarm).decode
_encode = msgspec.json.Encoder().encode


class AlarmStore:
    """Open with `AlarmStore.open`; one event loop uses it."""

    def __init__(self, writer: Writer) -> None:
        """Begin empty; `open` loads."""
        self._writer = writer
        self._queries = load_queries("alarms")
        self._alarms: dict[tuple[str, str], Alarm] = {}

    @classmethod
    async def open(cls, path: Path, damage: Damage | None = None) -> Self:
        """Open or make the database, and load everything.

        Args:
            path: of the database.
            damage: keeps what cannot be read; by default beside the database.

        Raises:
            StoreTooNew, StoreBroken: it cannot be used.
        """
        damage = damage or Damage(path.parent)
        writer = await Writer.open(path, "alarms")
        try:
            store = cls(writer)
            for key, text in await writer.fetch(store._queries["read_alarms"], {}):
                try:
                    alarm = _decode(text)
                except msgspec.MsgspecError as error:
                    damage.found("alarms", key.decode("utf-8", "replace"), text, error, then="create the feed's trigger anew")
                else:
                    store._alarms[alarm.key] = alarm
        except BaseException:
            await writer.close()
            raise
        return store

    async def close(self) -> None:
        """Close the database. Everything is written already."""
        await self._writer.close()

    def get(self, namespace: str, trigger: str) -> Alarm | None:
        """Find the alarm of a trigger."""
        return self._alarms.get((namespace, trigger))

    def all(self) -> list[Alarm]:
        """List all alarms."""
        return list(self._alarms.values())

    async def put(self, alarm: Alarm) -> None:
        """Write an alarm over the one of its trigger. It is durable, and only then in memory, when this returns.

        Raises:
            StoreBroken: it was not written, and memory is as before.
        """
        parameters = {"namespace": alarm.namespace, "trigger": alarm.trigger, "value": _encode(alarm).decode()}
        await self._writer.execute(self._queries["put_alarm"], parameters)
        self._alarms[alarm.key] = alarm

    async def delete(self, alarm: Alarm) -> None:
        """Delete the alarm of a trigger, whichever it has by now.

        Raises:
            StoreBroken: it is still in the database, and memory is as before.
        """
        await self._writer.execute(self._queries["delete_alarm"], {"namespace": alarm.namespace, "trigger": alarm.trigger})
        self._alarms.pop(alarm.key, None)
