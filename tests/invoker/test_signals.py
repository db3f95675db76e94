import asyncio
import os
import signal

from invoker.signals import Signals


async def test_the_first_sigterm_drains_and_the_second_hurries() -> None:
    signals = Signals()
    with signals.installed():
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(30):
            await signals.drain.wait()
        assert not signals.hurry.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(30):
            await signals.hurry.wait()


async def test_reloads_that_come_before_anybody_listens_are_one_and_the_next_is_another() -> None:
    signals = Signals()
    with signals.installed():
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(30):
            await signals.wait_reload()
        signals.reload()
        signals.reload()
        async with asyncio.timeout(30):
            await signals.wait_reload()
        waiting = asyncio.wait_for(signals.wait_reload(), 0.01)
        try:
            await waiting
        except TimeoutError:
            return
        raise AssertionError("two wishes before anybody listened were taken for two reloads")


async def test_handlers_are_gone_after_the_block() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Signals().installed():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
