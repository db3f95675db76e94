from __future__ import annotations

from pool.settings import PoolSettings


def test_defaults_bound_everything_that_users_could_fill():
    settings = PoolSettings(memory_mib=1024)
    assert settings.max_waiting_per_user <= settings.max_waiting
    assert settings.policy.name == "blend"
