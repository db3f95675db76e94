"""What is in flight: counted by namespace, found by id, its code held, and who waits for the end of all is told."""

import asyncio
from pathlib import Path

import msgspec
from invoker_site import ANNA, action

from invoker.in_flight import InFlight
from invoker.invocation import Call, Within
from invoker.model import Exec, Identity
from invoker.record.code_files import CodeFiles
from invoker.ticket import Ticket, Trace
from pool.model import ActivationId


def ticket(name: str, within: Within | None = None, code: str | None = None) -> Ticket:
    call = Call(
        identity=Identity(namespace=ANNA, api_key="u:k"),
        action=action(exec=Exec(kind="python:3", code=code)),
        payload=msgspec.Raw(b"{}"),
        payload_bytes=2,
        transaction="t",
        blocking=True,
        wait_s=1.0,
        received=0.0,
        authenticate_us=0,
        authorise_us=0,
        within=within,
    )
    return Ticket(ActivationId(name), call, 0.0, False, Trace(received=0.0))


async def test_each_counts_from_its_beginning_to_its_end_and_a_part_of_another_never(tmp_path: Path):
    in_flight = InFlight(CodeFiles(tmp_path))
    first, second = ticket("1"), ticket("2")
    part = ticket("3", Within(cause=ActivationId("1")))
    for each in (first, second, part):
        in_flight.enter(each)
    assert (len(in_flight), in_flight.count("anna"), in_flight.count("bob")) == (3, 2, 0)
    assert list(in_flight) == [first, second, part]
    assert in_flight.find(ActivationId("2")) is second
    in_flight.leave(second)
    assert in_flight.find(ActivationId("2")) is None
    in_flight.leave(part)
    in_flight.leave(first)
    assert (len(in_flight), in_flight.count("anna")) == (0, 0)


async def test_what_was_answered_counts_no_more_and_is_there_until_its_end(tmp_path: Path):
    in_flight = InFlight(CodeFiles(tmp_path))
    first, second = ticket("1"), ticket("2")
    part = ticket("3", Within(cause=ActivationId("1")))
    for each in (first, second, part):
        in_flight.enter(each)
    for each in (first, part):
        in_flight.count_no_more(each)
        assert (len(in_flight), in_flight.count("anna")) == (3, 1)
        assert in_flight.find(each.activation_id) is each
    for each in (first, part):
        in_flight.leave(each)
    assert (len(in_flight), in_flight.count("anna")) == (1, 1)
    in_flight.enter(first)
    assert in_flight.count("anna") == 2, "another of the same id counts again"
    in_flight.leave(first)
    in_flight.leave(second)
    assert (len(in_flight), in_flight.count("anna")) == (0, 0)


async def test_who_waits_for_the_end_of_all_is_told_when_the_last_has_left(tmp_path: Path):
    in_flight = InFlight(CodeFiles(tmp_path))
    await in_flight.wait_empty()
    one, other = ticket("1"), ticket("2")
    in_flight.enter(one)
    in_flight.enter(other)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        waiting = group.create_task(in_flight.wait_empty())
        in_flight.leave(one)
        await asyncio.sleep(0)
        assert not waiting.done()
        in_flight.leave(other)


async def test_its_code_is_not_removed_before_it_has_ended(tmp_path: Path):
    code = CodeFiles(tmp_path)
    in_flight = InFlight(code)
    digest = await code.put("def main(args): return args")
    code.unpin(digest)
    one = ticket("1", code=digest)
    in_flight.enter(one)
    code.remove(digest)
    assert await code.read(digest) == "def main(args): return args"
    in_flight.leave(one)
    assert not code.path(digest).exists()
