from pathlib import Path

import msgspec
import pytest

from invoker.control.messages import MakeCorrection
from invoker.errors import EntityExists, EntityNotFound, InvalidRequest
from invoker.record.correcting import correct
from invoker.record.entries import Correction, TailEntry, encode_entry
from invoker.record.ledger import Ledger, LedgerItem, read_usage
from invoker.record.rating import Rounding

OCTOBER_MS = 1_791_000_000_000
WANTED = MakeCorrection(subject="a", reason="the node was slow", author="ada", cpu_us=-7, memory_mib_us=-5)


class Books:
    """A ledger to which what is corrected is written at once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ledger = Ledger(directory, "n1")
        for name, at_ms in (("a", OCTOBER_MS), ("b", OCTOBER_MS + 40 * 86_400_000)):
            self.add("tail", TailEntry(name, "anna", "anna/find", 100, at_ms, 1), name)

    def add(self, kind: str, entry: TailEntry | Correction, subject: str) -> None:
        self.ledger.apply([LedgerItem(kind, entry.at_ms, subject, encode_entry(entry))], 1)

    async def write(self, correction: Correction) -> None:
        self.add("correction", correction, correction.subject)

    async def charged(self) -> tuple[int, int, int]:
        rows = await read_usage(self.directory, namespace="anna", since_ms=0, upto_ms=2**62, rounding=Rounding())
        return tuple(sum(getattr(row, f) for row in rows) for f in ("corrections", "charged_cpu_us", "charged_memory_mib_us"))


@pytest.fixture
def books(tmp_path: Path):
    books = Books(tmp_path)
    yield books
    books.ledger.close()


async def test_a_correction_is_filed_with_what_it_corrects_and_counts_once(books):
    for _ in range(2):
        reply = await correct(books.directory, books.write, WANTED)
        assert (reply.namespace, reply.action, reply.at_ms) == ("anna", "anna/find", OCTOBER_MS)
    assert await books.charged() == (1, 200 - 7, -5)
    await correct(books.directory, books.write, msgspec.structs.replace(WANTED, key=2, cpu_us=1, memory_mib_us=0))
    assert await books.charged() == (2, 200 - 6, -5)


async def test_another_correction_of_the_same_key_is_refused_and_not_lost_silently(books):
    await correct(books.directory, books.write, WANTED)
    with pytest.raises(EntityExists, match="give another --key"):
        await correct(books.directory, books.write, msgspec.structs.replace(WANTED, cpu_us=-8))
    assert await books.charged() == (1, 193, -5)


@pytest.mark.parametrize(
    ("change", "refusal", "why"),
    [
        ({"subject": "c"}, EntityNotFound, "no row of 'c'"),
        ({"reason": " "}, InvalidRequest, "needs a reason"),
        ({"cpu_us": 0, "memory_mib_us": 0}, InvalidRequest, "changes nothing"),
        ({"cpu_us": 2**60}, InvalidRequest, "too large"),
        ({"key": 0}, InvalidRequest, "not positive"),
    ],
)
async def test_what_cannot_be_corrected_is_refused_with_the_reason(books, change, refusal, why):
    with pytest.raises(refusal, match=why):
        await correct(books.directory, books.write, msgspec.structs.replace(WANTED, **change))
    assert await books.charged() == (0, 200, 0)
