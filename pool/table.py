"""The container table: what each container has become, in a mapped file that survives `kill -9`.

Labels of a container cannot change; a stem cell that becomes an action's container is known as such only here.
A write to the mapping costs less than a microsecond and is in the page cache at once, so the warm path notes in it
that an activation begins and ends. It need not survive a power cut: containers do not either, and the header's boot
id tells.

The file is a header and fixed slots. A process may be killed between any two writes, so each record has one byte
that makes it valid, written last when the record appears and first when it goes.
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from pool.model import ActivationId, ContainerId

SLOT_BYTES = 4096
MAX_FACTS_BYTES = 3000
MAX_CONTAINER_ID_BYTES = 128
#: How many activations one container may run at the same time.
MAX_ACTIVATIONS = 8

_MAGIC = b"INVOKERD"
_VERSION = 1
_HEADER = struct.Struct("=8sII64s")  # magic, version, bytes of a slot, boot id
_GROW_SLOTS = 64

# A slot. Offsets are multiples of 8, so that numbers are written in one store.
_IN_USE = 0  # 1 byte
_SPECIALISED = 1  # 1 byte
_TAKES_ONE = 2  # 1 byte
_CPU = 8  # int64
_ID = 16  # length, then bytes
_KEY = _ID + MAX_CONTAINER_ID_BYTES
_FACTS = 256  # length, then bytes
_ACTIVATIONS = _FACTS + 8 + MAX_FACTS_BYTES
_ID_RECORD = struct.Struct(f"=B{MAX_CONTAINER_ID_BYTES - 1}s")
_KEY_RECORD = struct.Struct("=64s")
_FACTS_RECORD = struct.Struct("=Q")
_CPU_RECORD = struct.Struct("=q")
_ACTIVATION_RECORD = struct.Struct("=32sq")
_ACTIVATION_BYTES = 48  # the record, then its valid byte at 40
_VALID = 40

assert _KEY + 64 <= _FACTS
assert _ACTIVATIONS + MAX_ACTIVATIONS * _ACTIVATION_BYTES <= SLOT_BYTES
assert _ACTIVATIONS % 8 == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the table knows of one container.

    Attributes:
        key_digest: of its reuse key; None while it is a stem cell.
        facts: what the pool noted when it was specialised.
        activations: (activation id, start in milliseconds since the epoch) of those that had begun and not ended.
        cpu_us: its CPU counter when its last activation ended.
        takes_one: its code said that it runs one activation at a time.
    """

    container_id: ContainerId
    key_digest: str | None
    facts: bytes
    activations: tuple[tuple[ActivationId, int], ...]
    cpu_us: int
    takes_one: bool = False


class Slot:
    """One container's place in the table."""

    __slots__ = ("_base", "_places", "_table", "container_id")

    def __init__(self, table: ContainerTable, base: int, container_id: ContainerId) -> None:
        self._table = table
        self._base = base
        #: Activations in flight -> offset of their record.
        self._places: dict[ActivationId, int] = {}
        self.container_id = container_id

    def specialise(self, key_digest: str, facts: bytes) -> None:
        """Note which action's container it becomes; call before its first byte of code is sent.

        Args:
            key_digest: 64 hexadecimal digits.
            facts: at most `MAX_FACTS_BYTES`.
        """
        if len(facts) > MAX_FACTS_BYTES:
            raise ValueError(f"{len(facts)} bytes of facts, at most {MAX_FACTS_BYTES} fit")
        data, base = self._table.data, self._base
        data[base + _SPECIALISED] = 0
        _KEY_RECORD.pack_into(data, base + _KEY, key_digest.encode())
        _FACTS_RECORD.pack_into(data, base + _FACTS, len(facts))
        data[base + _FACTS + 8 : base + _FACTS + 8 + len(facts)] = facts
        data[base + _SPECIALISED] = 1

    def take_one(self) -> None:
        """Note that its code runs one activation at a time."""
        self._table.data[self._base + _TAKES_ONE] = 1

    def begin(self, activation_id: ActivationId, start_ms: int) -> None:
        """Note that an activation begins; call before its first byte is sent. At most `MAX_ACTIVATIONS` at once."""
        data, places = self._table.data, self._places
        place = self._base + _ACTIVATIONS
        while data[place + _VALID]:
            place += _ACTIVATION_BYTES
            if place >= self._base + _ACTIVATIONS + MAX_ACTIVATIONS * _ACTIVATION_BYTES:
                raise ValueError(f"{self.container_id} already runs {MAX_ACTIVATIONS} activations")
        _ACTIVATION_RECORD.pack_into(data, place, activation_id.encode(), start_ms)
        data[place + _VALID] = 1
        places[activation_id] = place

    def end(self, cpu_us: int, activation_id: ActivationId | None = None) -> None:
        """Note that an activation has ended, and the container's CPU counter then. Harmless when none had begun.

        The counter goes first: a daemon killed between the two writes finds the activation as begun, and its
        journal knows that it ended; the other way round CPU time would be counted twice.

        Args:
            cpu_us: of the container; negative leaves the earlier value.
            activation_id: may be left out while only one is in flight.
        """
        if activation_id is None and len(self._places) > 1:
            raise ValueError(f"{self.container_id} runs {len(self._places)} activations: which one has ended?")
        data = self._table.data
        if cpu_us >= 0:
            _CPU_RECORD.pack_into(data, self._base + _CPU, cpu_us)
        if activation_id is None:
            activation_id = next(iter(self._places), None)
        place = self._places.pop(activation_id, None) if activation_id is not None else None
        if place is not None:
            data[place + _VALID] = 0

    def end_all(self) -> None:
        """Forget activations that an earlier daemon began, once they are recorded as lost."""
        for index in range(MAX_ACTIVATIONS):
            self._table.data[self._base + _ACTIVATIONS + index * _ACTIVATION_BYTES + _VALID] = 0
        self._places.clear()

    def release(self) -> None:
        """Forget the container. Safe to repeat."""
        self._table.release(self)

    def entry(self) -> Entry:
        """Read what the table holds of it."""
        data, base = self._table.data, self._base
        specialised = bool(data[base + _SPECIALISED])
        facts_bytes = min(_FACTS_RECORD.unpack_from(data, base + _FACTS)[0], MAX_FACTS_BYTES)
        return Entry(
            container_id=self.container_id,
            key_digest=_KEY_RECORD.unpack_from(data, base + _KEY)[0].decode() if specialised else None,
            facts=bytes(data[base + _FACTS + 8 : base + _FACTS + 8 + facts_bytes]) if specialised else b"",
            activations=tuple((name, start_ms) for name, start_ms, _ in self._records()),
            cpu_us=_CPU_RECORD.unpack_from(data, base + _CPU)[0],
            takes_one=specialised and bool(data[base + _TAKES_ONE]),
        )

    def restore(self) -> None:
        """Take up the activations that the file says are in flight."""
        self._places = {name: place for name, _, place in self._records()}

    def _records(self) -> list[tuple[ActivationId, int, int]]:
        """(activation id, start, offset) of the valid records."""
        data, found = self._table.data, []
        for index in range(MAX_ACTIVATIONS):
            place = self._base + _ACTIVATIONS + index * _ACTIVATION_BYTES
            if data[place + _VALID]:
                name, start_ms = _ACTIVATION_RECORD.unpack_from(data, place)
                found.append((ActivationId(name.decode(errors="replace")), start_ms, place))
        return found


class ContainerTable:
    """The mapped file. One process has it open: the one that holds the state directory's lock.

    Attributes:
        data: the mapping; grows when all slots are taken.
        emptied_because: why the contents found were of no use; None when they were kept or there were none.
    """

    def __init__(self, file: int, data: mmap.mmap, emptied_because: str | None) -> None:
        self._file = file
        self.data = data
        self.emptied_because = emptied_because
        self._slots: dict[ContainerId, Slot] = {}
        self._free: list[int] = []
        for base in range(SLOT_BYTES, len(data), SLOT_BYTES):
            self._read_slot(base)

    @classmethod
    def open(cls, path: Path, boot_id: str) -> ContainerTable:
        """Map the table, and empty it when it is of another boot, version or kind.

        Raises:
            OSError: the file cannot be opened, or the disk is full.
        """
        header = _HEADER.pack(_MAGIC, _VERSION, SLOT_BYTES, boot_id.encode())
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            found = os.pread(file, _HEADER.size, 0)
            reason = None if found in (header, b"") else _difference(found)
            if found != header:
                os.ftruncate(file, 0)
            size = max(os.fstat(file).st_size // SLOT_BYTES, 1 + _GROW_SLOTS) * SLOT_BYTES
            os.posix_fallocate(file, 0, size)  # a write to a hole on a full disk would be SIGBUS
            if found != header:
                os.pwrite(file, header, 0)
            return cls(file, mmap.mmap(file, size), reason)
        except BaseException:
            os.close(file)
            raise

    def claim(self, container_id: ContainerId) -> Slot:
        """Return the container's slot, a new one unless it has one already (from an earlier daemon).

        Raises:
            OSError: the file has to grow, and the disk is full.
        """
        if (known := self._slots.get(container_id)) is not None:
            return known
        name = container_id.encode()
        if len(name) >= MAX_CONTAINER_ID_BYTES:
            raise ValueError(f"{container_id} is longer than {MAX_CONTAINER_ID_BYTES - 1} bytes")
        if not self._free:
            self._grow()
        base = self._free.pop()
        self.data[base : base + SLOT_BYTES] = bytes(SLOT_BYTES)
        _ID_RECORD.pack_into(self.data, base + _ID, len(name), name)
        self.data[base + _IN_USE] = 1
        slot = self._slots[container_id] = Slot(self, base, container_id)
        return slot

    def find(self, container_id: ContainerId) -> Slot | None:
        """Return the container's slot, None if it has none."""
        return self._slots.get(container_id)

    def entries(self) -> list[Entry]:
        """Read all slots in use."""
        return [slot.entry() for slot in self._slots.values()]

    def release(self, slot: Slot) -> None:
        """Free a slot; a second time does nothing."""
        if self._slots.get(slot.container_id) is slot:
            del self._slots[slot.container_id]
            self.data[slot._base + _IN_USE] = 0  # noqa: SLF001 -- one data structure, two classes
            self._free.append(slot._base)  # noqa: SLF001

    def close(self) -> None:
        """Unmap. The contents stay."""
        self.data.close()
        os.close(self._file)

    def _read_slot(self, base: int) -> None:
        length, name = _ID_RECORD.unpack_from(self.data, base + _ID)
        if self.data[base + _IN_USE]:
            container_id = ContainerId(name[:length].decode(errors="replace"))
            slot = self._slots[container_id] = Slot(self, base, container_id)
            slot.restore()
        else:
            self._free.append(base)

    def _grow(self) -> None:
        old, size = len(self.data), len(self.data) + _GROW_SLOTS * SLOT_BYTES
        os.posix_fallocate(self._file, old, size - old)
        self.data.resize(size)
        self._free.extend(range(old, size, SLOT_BYTES))


def _difference(found: bytes) -> str:
    """Say why a header is not ours."""
    if len(found) < _HEADER.size or not found.startswith(_MAGIC):
        return "it is not a container table"
    _, version, slot_bytes, boot_id = _HEADER.unpack(found)
    if (version, slot_bytes) != (_VERSION, SLOT_BYTES):
        return f"its format is {version}/{slot_bytes}, ours {_VERSION}/{SLOT_BYTES}"
    return f"it is of an earlier boot, {boot_id.rstrip(bytes(1)).decode(errors='replace')}"
