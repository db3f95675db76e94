import asyncio

import pytest

from pool.breaker import BreakerState
from pool.errors import EngineError, EngineUnavailable, ImageNotFound
from pool.guard import CallClass, Deadlines, Guard, Widths

READ, CREATE, PULL = CallClass.READ, CallClass.CREATE, CallClass.PULL
CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def quick(**changes) -> Guard:
    return Guard(deadlines=Deadlines(create_s=0.02, remove_s=0.02, read_s=0.01, pull_s=0.01), **changes)


async def never() -> None:
    await asyncio.Event().wait()


async def miss(guard: Guard, kind: CallClass = READ) -> None:
    with pytest.raises(EngineUnavailable):
        async with guard.call("verb", kind):
            await never()


async def test_a_call_that_is_answered_passes_and_is_counted():
    guard = quick()
    async with guard.call("inspect", READ):
        pass
    counted = guard.calls["inspect"]
    assert (counted.count, counted.errors, counted.timeouts, counted.refused) == (1, 0, 0, 0)


async def test_a_call_without_an_answer_ends_in_its_deadline():
    guard = quick()
    async with asyncio.timeout(30):
        await miss(guard)
    counted = guard.calls["verb"]
    assert (counted.count, counted.errors, counted.timeouts) == (1, 1, 1)
    assert counted.seconds > 0.009


async def test_an_error_is_an_answer():
    guard = quick(misses_to_open=2)
    await miss(guard)
    with pytest.raises(EngineError):
        async with guard.call("verb", READ):
            raise EngineError
    await miss(guard)
    assert guard.state(READ) is CLOSED
    counted = guard.calls["verb"]
    assert (counted.count, counted.errors, counted.timeouts) == (3, 3, 2)


def cool(guard: Guard) -> None:
    """Let its pause be over, whatever the clock says."""
    guard._breakers[READ]._open_until = 0.0
    assert guard.state(READ) is HALF_OPEN


async def test_once_calls_are_refused_no_more_line_up_behind_one_that_hangs():
    guard = quick(misses_to_open=1, cooling_s=600.0, widths=Widths(read=1))
    await miss(guard)
    cool(guard)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        guard.deadlines = Deadlines(read_s=3600.0)
        trial = group.create_task(miss(guard))
        while not guard._turns[READ].locked():
            await asyncio.sleep(0)
        guard._breakers[READ]._open_until = float("inf")
        assert guard.state(READ) is OPEN
        with pytest.raises(EngineUnavailable, match="not asked for a while"):
            async with guard.call("other", READ):
                pytest.fail("it was let through")
        trial.cancel()


async def test_after_some_misses_in_a_row_calls_of_the_class_are_refused_at_once_until_one_is_answered():
    guard = quick(misses_to_open=2, cooling_s=600.0)
    await miss(guard)
    await miss(guard)
    assert guard.sick_classes() == [READ]
    with pytest.raises(EngineUnavailable, match="not asked for a while"):
        async with guard.call("other", READ):
            pytest.fail("it was let through")
    assert (guard.calls["other"].count, guard.calls["other"].refused) == (0, 1)
    cool(guard)
    async with guard.call("verb", READ):
        pass
    assert guard.sick_classes() == []
    await miss(guard)
    assert guard.state(READ) is CLOSED  # an answer began the count anew


async def test_other_classes_go_on():
    guard = quick(misses_to_open=1)
    await miss(guard)
    assert guard.state(READ) is OPEN
    async with guard.call("create", CREATE):
        pass
    assert guard.calls["create"].count == 1


async def test_while_one_tries_whether_it_is_well_again_the_others_are_refused():
    guard = quick(misses_to_open=1, cooling_s=600.0)
    await miss(guard)
    cool(guard)
    async with guard.call("trial", READ):
        with pytest.raises(EngineUnavailable):
            async with guard.call("other", READ):
                pytest.fail("it was let through beside the trial")
    async with guard.call("other", READ):
        pass


@pytest.mark.parametrize("how", ["missed", "refused"])
async def test_a_trial_without_an_answer_opens_it_again(how):
    guard = quick(misses_to_open=1, cooling_s=600.0)
    await miss(guard)
    cool(guard)
    if how == "missed":
        await miss(guard)
    else:
        with pytest.raises(EngineUnavailable):
            async with guard.call("verb", READ):
                raise EngineUnavailable
    assert guard.state(READ) is OPEN


async def test_an_engine_that_refuses_connections_is_asked_again_each_time():
    """That costs nobody any time, so nobody need be kept from trying."""
    guard = quick(misses_to_open=2)
    for _ in range(5):
        with pytest.raises(EngineUnavailable, match="down"):
            async with guard.call("verb", READ):
                raise EngineUnavailable("down")
    assert guard.state(READ) is CLOSED


async def test_who_must_look_after_the_engine_is_told_when_it_did_not_answer_but_not_of_his_own_look():
    told = []
    guard = quick(on_sick=lambda: told.append(1))
    async with guard.call("create", CREATE):
        pass
    with pytest.raises(EngineUnavailable):
        async with guard.call("list", READ):
            raise EngineUnavailable
    assert told == []
    await miss(guard)
    assert told == [1]


async def test_calls_that_waited_for_their_turn_are_refused_when_it_opened_meanwhile():
    guard = quick(misses_to_open=1, widths=Widths(read=1))
    async with asyncio.timeout(30):
        answers = await asyncio.gather(*(miss(guard) for _ in range(20)))
    assert len(answers) == 20
    assert (guard.calls["verb"].timeouts, guard.calls["verb"].refused) == (1, 19)


async def test_no_more_calls_of_a_class_are_under_way_than_its_width():
    guard = Guard(widths=Widths(create=2, read=1))
    inside, most = 0, 0

    async def call() -> None:
        nonlocal inside, most
        async with guard.call("create", CREATE):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    async with guard.call("inspect", READ):  # another class does not take its places
        await asyncio.gather(*(call() for _ in range(10)))
    assert most == 2


async def test_waiting_for_a_turn_does_not_use_up_the_deadline():
    guard = Guard(deadlines=Deadlines(read_s=600.0), widths=Widths(read=1))

    async def call() -> None:
        async with guard.call("read", READ):
            pass

    async with asyncio.TaskGroup() as group, guard.call("occupant", READ):
        guard.deadlines = Deadlines(read_s=0.2)  # of those that begin from now on
        group.create_task(call())
        await asyncio.sleep(0.3)  # longer than that
    assert (guard.calls["read"].count, guard.calls["read"].timeouts) == (1, 0)


async def test_a_pull_that_takes_too_long_blames_the_image_and_not_the_engine():
    guard = quick(misses_to_open=1)
    with pytest.raises(ImageNotFound, match="did not end"):
        async with guard.call("pull", PULL):
            await never()
    assert guard.sick_classes() == []


async def test_a_cancelled_call_gives_back_its_turn_and_says_nothing_about_the_engine():
    guard = Guard(widths=Widths(read=1), misses_to_open=1)

    async def call() -> None:
        async with guard.call("read", READ):
            await never()

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(call(), 0.01)
    assert guard.sick_classes() == []
    assert guard.calls["read"].timeouts == 0
    async with asyncio.timeout(30), guard.call("read", READ):
        pass


async def test_each_call_is_told_with_how_it_ended_and_how_long_it_took():
    told = []
    guard = quick(on_call=lambda verb, result, seconds: told.append((verb, result, seconds >= 0)))
    async with guard.call("list", READ):
        pass
    with pytest.raises(EngineError):
        async with guard.call("create", CREATE):
            raise EngineError
    await miss(guard)
    assert told == [("list", "ok", True), ("create", EngineError.code, True), ("verb", "timeout", True)]
