"""A call that may not even wait for a container: refused and recorded, and nothing else ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from invoker_site import site

from pool.errors import PoolOverloaded, TooManyWaiting


@pytest.mark.parametrize(("bound", "error"), [("max_waiting", PoolOverloaded), ("max_waiting_per_user", TooManyWaiting)])
async def test_activation_that_may_not_even_wait_is_recorded_and_refused(tmp_path: Path, bound: str, error: type[PoolOverloaded]):
    async with site(tmp_path, **{bound: 0}) as s:
        with pytest.raises(error, match="come back in 1 s") as caught:
            await s.run()
        assert caught.value.activation_id == s.finished[0].activation_id
        assert s.finished[0].meter.outcome == error.code
