"""A scripted engine, and the real backend on it."""

import pytest
from scripted_engine import Engine, opened


@pytest.fixture
async def engine(tmp_path):
    async with Engine(str(tmp_path / "engine.sock")) as engine:
        yield engine


@pytest.fixture
async def backend(engine, tmp_path):
    backend = await opened(engine.url, tmp_path)
    yield backend
    await backend.close()
