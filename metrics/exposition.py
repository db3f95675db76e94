"""The scrape: copy the counters on the loop, render them in a thread, answer in the format that was asked for."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import platform
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from metrics import catalogue
from metrics.catalogue import BOUNDS_US, CATALOGUE, Kind
from metrics.observer import Histogram, Observer
from pool.model import ContainerState, PoolStatistics, StartKind

#: Counts between the bounds, and the sum in microseconds.
Observed = tuple[list[int], int]
#: Values of the labels, and a number, or what a histogram observed.
Sample = tuple[tuple[str, ...], float | Observed]
#: All samples of one instant, by the metric's name in the catalogue.
Snapshot = Mapping[str, Sequence[Sample]]

_MIB = 1024 * 1024
_BOUNDS = tuple(f"{bound / 1e6:g}" for bound in BOUNDS_US)
#: Below this a packed body is not worth the time.
_GZIP_FROM_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the gauges are read at each scrape. None of these may wait or raise.

    Attributes:
        pool: a look at the pool.
        in_flight: activations accepted and not yet finished.
        recorder_lag_s: age of the oldest record that is not yet in the ledger.
        recorder_backlog: number of such records.
        engine_up: whether the engine answered when last asked.
        engine_sick: for each class of calls, whether the engine missed its deadlines.
        kernel_cpu_us: CPU time that the kernel counted in all containers of this daemon's time, microseconds.
        freezing_works: whether the self-test found that containers can be frozen.
        damaged_rows: for each store that has some, how many of its rows cannot be read.
        cpu_window_us: CPU time that each namespace has used within the window of its limit, microseconds.
    """

    pool: Callable[[], PoolStatistics]
    in_flight: Callable[[], int]
    recorder_lag_s: Callable[[], float]
    recorder_backlog: Callable[[], int]
    engine_up: Callable[[], bool]
    engine_sick: Callable[[], Mapping[str, bool]] = dict
    freezing_works: Callable[[], bool] = lambda: True
    kernel_cpu_us: Callable[[], int] = lambda: 0
    damaged_rows: Callable[[], Mapping[str, int]] = dict
    cpu_window_us: Callable[[], Mapping[str, int]] = dict


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildInfo:
    """What runs: version and commit of invokerd, API version of the engine, `v1` or `v2` of the cgroups."""

    version: str
    revision: str
    engine: str
    cgroup: str


class Exposition:
    """Makes scrapes of an observer and its sources. One a daemon."""

    def __init__(self, observer: Observer, sources: Sources, build: BuildInfo) -> None:
        self._observer = observer
        self._sources = sources
        self._build = build
        self._process = (ProcessCollector(registry=None), GCCollector(registry=CollectorRegistry()))
        # Its own thread: a scrape must not wait behind the unpacking of somebody's zip.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        # Spans the rendering, so that many scrapers at once cost two renderings and not many.
        self._rendering = asyncio.Lock()
        #: Bodies rendered from the last snapshot, by (content type, packed).
        self._rendered: dict[tuple[str, bool], bytes] = {}
        self._taken_at = float("-inf")
        self._snapshot: Snapshot = {}
        self._snapshot_s = 0.0
        self._render_s = 0.0

    def close(self) -> None:
        """Stop the thread. A scrape that is being rendered ends first."""
        self._thread.shutdown()

    async def scrape(self, accept: str = "", *, packed: bool = False) -> tuple[str, bytes]:
        """Return the content type and the body of a scrape.

        Args:
            accept: the request's Accept header; OpenMetrics where it asks for it, else Prometheus' text.
            packed: gzip the body.
        """
        encode, content_type = choose_encoder(accept)
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        async with self._rendering:
            # What was copied after this scrape was asked for, while it waited for the lock, is new enough for it.
            if self._taken_at < asked_at:
                self._taken_at = loop.time()
                self._snapshot = self.snapshot()
                self._snapshot_s = loop.time() - self._taken_at
                self._rendered.clear()
            body = self._rendered.get((content_type, packed))
            if body is None:
                body = await loop.run_in_executor(self._thread, self._render, encode, packed)
                self._rendered[content_type, packed] = body
        return content_type, body

    def _render(self, encode: Callable[[Collector], bytes], packed: bool) -> bytes:
        began = time.perf_counter()
        body = encode(_Families(self._snapshot, self._process))
        if packed:
            body = gzip.compress(body, compresslevel=1)
        self._render_s = time.perf_counter() - began
        return body

    def snapshot(self) -> Snapshot:
        """Copy all numbers, of one instant. On the loop; the caps bound it to some thousand samples, 2 ms."""
        observer, pool = self._observer, self._sources.pool()
        observer.settle()
        seconds_in = dict.fromkeys(pool.containers, 0.0)
        for (before, _), entry in observer.transitions.items():
            if before is not None:
                seconds_in[before] += entry.seconds
        kernel_cpu_us = self._sources.kernel_cpu_us()
        build = (self._build.version, self._build.revision, platform.python_version(), self._build.engine, self._build.cgroup)
        return {
            catalogue.REPAIRS.name: [((), observer.repairs)],
            catalogue.FREEZING.name: [((), int(self._sources.freezing_works()))],
            catalogue.FREEZE_FAILURES.name: [((), observer.freeze_failures)],
            catalogue.TAIL.name: [((), observer.tail_us / 1e6)],
            catalogue.ACTIVATIONS.name: list(observer.activations.items()),
            catalogue.IN_FLIGHT.name: [((), self._sources.in_flight())],
            catalogue.PHASE.name: [
                ((name,), _copy(histogram)) for name, histogram in zip(catalogue.PHASES, observer.phases, strict=True)
            ],
            catalogue.DURATION.name: [((_name(start),), _copy(histogram)) for start, histogram in observer.durations.items()],
            catalogue.OVERHEAD.name: [((_name(start),), _copy(histogram)) for start, histogram in observer.overheads.items()],
            catalogue.OOM_KILLS.name: [((), observer.oom_kills)],
            **self._of_namespaces(),
            **self._of_actions(),
            catalogue.REFUSED.name: [((reason,), count) for reason, count in observer.refusals.items()],
            catalogue.CONTAINERS.name: [((state.value,), count) for state, count in pool.containers.items()],
            catalogue.TRANSITIONS.name: [
                ((_name(before), _name(after)), entry.count) for (before, after), entry in observer.transitions.items()
            ],
            catalogue.STATE_SECONDS.name: [((state.value,), seconds) for state, seconds in seconds_in.items()],
            catalogue.CONTAINER_START.name: [
                ((kind,), _copy(histogram)) for kind, histogram in observer.container_starts.entries.items()
            ],
            catalogue.KERNEL_CPU.name: [((), kernel_cpu_us / 1e6)],
            catalogue.UNBOOKED_CPU.name: [((), (kernel_cpu_us - observer.booked_cpu_us) / 1e6)],
            catalogue.LEASES.name: [((start.value,), count) for start, count in pool.starts.items()],
            catalogue.EVICTIONS.name: [((), pool.evictions)],
            catalogue.WAITING.name: [((), pool.waiting)],
            catalogue.MEMORY_USED.name: [((), pool.memory_used_mib * _MIB)],
            catalogue.MEMORY_BUDGET.name: [((), pool.memory_budget_mib * _MIB)],
            catalogue.ENGINE_UP.name: [((), int(self._sources.engine_up()))],
            catalogue.ENGINE_SICK.name: [((kind,), int(sick)) for kind, sick in self._sources.engine_sick().items()],
            catalogue.ENGINE_CALLS.name: list(observer.engine_calls.items()),
            catalogue.ENGINE_SECONDS.name: [
                ((operation,), _copy(histogram)) for operation, histogram in observer.engine_seconds.items()
            ],
            catalogue.RECORDER_LAG.name: [((), self._sources.recorder_lag_s())],
            catalogue.RECORDER_BACKLOG.name: [((), self._sources.recorder_backlog())],
            catalogue.JOURNAL_WRITE.name: [((), _copy(observer.journal_writes))],
            catalogue.DAMAGED.name: [((store,), count) for store, count in self._sources.damaged_rows().items()],
            catalogue.LOG_DROPPED.name: [((), observer.log_lines_dropped)],
            catalogue.LOG_LATE.name: [((), observer.log_lines_late)],
            catalogue.LOOP_LAG.name: [((), _copy(observer.loop_lags))],
            catalogue.SCRAPE_SNAPSHOT.name: [((), self._snapshot_s)],
            catalogue.SCRAPE_RENDER.name: [((), self._render_s)],
            catalogue.DROPPED_SERIES.name: [
                (("action",), observer.actions.dropped),
                (("kind",), observer.container_starts.dropped),
                (("namespace",), observer.namespaces.dropped),
            ],
            catalogue.BUILD_INFO.name: [(build, 1)],
        }

    def _of_namespaces(self) -> dict[str, Sequence[Sample]]:
        entries = self._observer.namespaces.entries
        windows_us = dict(self._sources.cpu_window_us())
        in_windows_us = {name: windows_us.pop(name, 0) for name in entries}
        if catalogue.OTHER in entries:
            in_windows_us[catalogue.OTHER] = sum(windows_us.values())
        return {
            catalogue.NAMESPACE_ACTIVATIONS.name: [
                ((name, status), count)
                for name, entry in entries.items()
                for status, count in zip(catalogue.STATUSES, entry.by_status, strict=True)
            ],
            catalogue.NAMESPACE_CPU.name: [((name,), entry.cpu_us / 1e6) for name, entry in entries.items()],
            catalogue.NAMESPACE_CPU_WINDOW.name: [((name,), used_us / 1e6) for name, used_us in in_windows_us.items()],
            catalogue.NAMESPACE_BILLED.name: [((name,), entry.billed_us / 1e6) for name, entry in entries.items()],
            catalogue.NAMESPACE_MEMORY.name: [((name,), entry.billed_mib_us * _MIB / 1e6) for name, entry in entries.items()],
            catalogue.NAMESPACE_IDLE.name: [
                ((name, state), idle_us / 1e6)
                for name, entry in entries.items()
                for state, idle_us in (("warm", entry.warm_us), ("frozen", entry.frozen_us))
            ],
            catalogue.NAMESPACE_IDLE_MEMORY.name: [((name,), entry.idle_mib_us * _MIB / 1e6) for name, entry in entries.items()],
            catalogue.THROTTLED.name: [
                ((name, reason), count) for name, entry in entries.items() for reason, count in entry.throttled.items()
            ],
        }

    def _of_actions(self) -> dict[str, Sequence[Sample]]:
        entries = self._observer.actions.entries
        labels = {path: (path.partition("/")[0], path.partition("/")[2] or path) for path in entries}
        return {
            catalogue.ACTION_ACTIVATIONS.name: [(labels[path], entry.activations) for path, entry in entries.items()],
            catalogue.ACTION_ERRORS.name: [(labels[path], entry.errors) for path, entry in entries.items()],
            catalogue.ACTION_BILLED.name: [(labels[path], entry.billed_us / 1e6) for path, entry in entries.items()],
        }


def metrics_handler(exposition: Exposition) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Make the aiohttp handler of `GET /metrics`. It answers in Prometheus' text or OpenMetrics, packed where asked."""

    async def handle(request: web.Request) -> web.Response:
        packed = "gzip" in request.headers.get("Accept-Encoding", "")
        content_type, body = await exposition.scrape(request.headers.get("Accept", ""), packed=packed)
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if packed:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)

    return handle


def metrics_application(exposition: Exposition) -> web.Application:
    """Make the application of the metrics port: `/metrics`, and nothing else. Closing it stops the thread."""

    async def close(_: web.Application) -> None:
        exposition.close()

    application = web.Application()
    application.router.add_get("/metrics", metrics_handler(exposition))
    application.on_cleanup.append(close)
    return application


class _Families(Collector):
    """The collector of one snapshot, and of prometheus-client's own metrics of this process."""

    def __init__(self, snapshot: Snapshot, process: tuple[Collector, ...]) -> None:
        self._snapshot = snapshot
        self._process = process

    def collect(self) -> Iterator[Metric]:
        """Yield each family of the catalogue, also those without samples."""
        for metric in CATALOGUE:
            yield _family(metric, self._snapshot[metric.name])
        for collector in self._process:
            yield from collector.collect()


def _name(value: ContainerState | StartKind | None) -> str:
    return "none" if value is None else value.value


def _copy(histogram: Histogram) -> Observed:
    return histogram.counts.copy(), histogram.sum_us


def _family(metric: catalogue.Metric, samples: Sequence[Sample]) -> Metric:
    """Turn the samples of one metric into prometheus-client's values."""
    if metric.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels, unit=metric.unit)
        for labels, observed in samples:
            assert isinstance(observed, tuple), metric.name
            counts, sum_us = observed
            cumulated = zip((*_BOUNDS, "+Inf"), itertools.accumulate(counts), strict=True)
            histogram.add_metric(labels, buckets=list(cumulated), sum_value=sum_us / 1e6)
        return histogram
    make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = make(metric.family, metric.help, labels=metric.labels, unit=metric.unit)
    for labels, number in samples:
        assert not isinstance(number, tuple), metric.name
        family.add_metric(labels, number)
    return family
