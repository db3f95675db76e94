from collections.abc import Callable, Iterator

import pytest

from metrics.exposition import BuildInfo, Exposition, Sources
from metrics.observer import LabelCaps, Observer
from pool.model import ContainerState, PoolStatistics, StartKind

POOL = PoolStatistics(
    containers={state: index for index, state in enumerate(ContainerState)},
    waiting=7,
    memory_used_mib=512,
    memory_budget_mib=4096,
    starts={StartKind.COLD: 3, StartKind.STEM: 0, StartKind.WARM: 40, StartKind.FROZEN: 20},
    evictions=2,
)


@pytest.fixture
def observer() -> Observer:
    return Observer(LabelCaps())


@pytest.fixture
def expose() -> Iterator[Callable[[Observer], Exposition]]:
    """A maker of expositions whose gauges have known values; their threads end with the test."""
    made: list[Exposition] = []

    def make(observer: Observer) -> Exposition:
        sources = Sources(
            pool=lambda: POOL,
            in_flight=lambda: 5,
            recorder_lag_s=lambda: 0.25,
            recorder_backlog=lambda: 11,
            engine_up=lambda: True,
            engine_sick=lambda: {"create": True, "read": False},
            freezing_works=lambda: False,
            damaged_rows=lambda: {"entities": 2},
            cpu_window_us=lambda: {
                "beamline": 2_500_000,
                **dict.fromkeys((f"namespace-{each:04}" for each in range(1000)), 1000),
            },
        )
        build = BuildInfo(version="0.1.0", revision="abc", engine="1.41", cgroup="v1")
        made.append(Exposition(observer, sources, build))
        return made[-1]

    yield make
    for exposition in made:
        exposition.close()


@pytest.fixture
def finish() -> Callable[..., None]:
    """Report one ordinary warm activation, with whatever the test wants different."""

    def report(observer: Observer, **different: object) -> None:
        activation = {
            "namespace": "beamline",
            "action": "beamline/hits/find",
            "start": StartKind.WARM,
            "outcome": "ok",
            "status": 0,
            "phases_us": (20, 5, 7, 3, 0, 0, 40, 0, 900, 25),
            "cpu_us": 800,
            "billed_us": 900,
            "memory_limit_mib": 256,
        }
        observer.activation_finished(**(activation | different))
        observer.settle()

    return report
