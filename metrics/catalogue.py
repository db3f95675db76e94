"""Every metric of the daemon: name, kind, unit, labels, buckets and what it tells. `docs/metrics.md` is made from here.

Names follow Prometheus: base units, `_total` on counters only. No label ever holds an activation, a container or a
user id; labels with a namespace or an action are capped (`observer.LabelCaps`). Histograms are per phase or per start,
never per action: at 21 series each, 500 actions would be a megabyte.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

PREFIX = "invokerd_"

#: Upper bounds of all histograms, microseconds, inclusive: from the cost of a thaw to the longest run.
BOUNDS_US = (
    *(100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000),
    *(1_000_000, 2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000, 300_000_000),
)

#: Phases of an activation, in the order of the activation record.
PHASES = ("authenticate", "authorise", "resolve", "queue", "pull", "create", "thaw", "init", "run", "collect")

#: How an activation ended; the index is OpenWhisk's `statusCode`.
STATUSES = ("success", "application_error", "developer_error", "internal_error")

#: Value of a capped label for all that came after the cap was reached.
OTHER = "_other"


class Kind(enum.Enum):
    """The Prometheus type of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family.

    Attributes:
        name: as it is scraped, `_total` of a counter included.
        kind: its Prometheus type. All histograms have the buckets `BOUNDS_US`.
        help: one sentence.
        labels: names of its labels, in the order in which samples give their values.
        unit: base unit, the end of the name without `_total`; empty for plain counts.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""

    @property
    def family(self) -> str:
        """The name without `_total`."""
        return self.name.removesuffix("_total")


def _counter(name: str, help_: str, *labels: str, unit: str = "") -> Metric:
    return Metric(f"{PREFIX}{name}", Kind.COUNTER, help_, labels, unit)


def _gauge(name: str, help_: str, *labels: str, unit: str = "") -> Metric:
    return Metric(f"{PREFIX}{name}", Kind.GAUGE, help_, labels, unit)


def _histogram(name: str, help_: str, *labels: str) -> Metric:
    return Metric(f"{PREFIX}{name}", Kind.HISTOGRAM, help_, labels, "seconds")


ACTIVATIONS = _counter(
    "activations_total", "Finished activations by start kind, status and outcome.", "start", "status", "outcome"
)
IN_FLIGHT = _gauge("activations_in_flight", "Activations accepted and not yet finished.")
PHASE = _histogram("activation_phase_seconds", "Time spent in each phase, of the activations that had that phase.", "phase")
DURATION = _histogram(
    "activation_duration_seconds", "Whole time of an activation, from the request to the written journal, by start kind.", "start"
)
OVERHEAD = _histogram("activation_overhead_seconds", "Whole time less init and run: what the platform adds.", "start")
OOM_KILLS = _counter("oom_kills_total", "Processes in containers that the kernel killed for memory.")

NAMESPACE_ACTIVATIONS = _counter(
    "namespace_activations_total", "Finished activations by the namespace that is billed.", "namespace", "status"
)
NAMESPACE_CPU = _counter("namespace_cpu_seconds_total", "CPU time of activations.", "namespace", unit="seconds")
NAMESPACE_CPU_WINDOW = _gauge(
    "namespace_cpu_window_seconds",
    "CPU time of activations within the window of `limits.cpu_seconds_per_window`.",
    "namespace",
    unit="seconds",
)
NAMESPACE_BILLED = _counter(
    "namespace_billed_seconds_total", "Init plus run: what activation records call duration.", "namespace", unit="seconds"
)
NAMESPACE_MEMORY = _counter(
    "namespace_billed_byte_seconds_total",
    "Declared memory limit times billed seconds.",
    "namespace",
    unit="byte_seconds",
)
NAMESPACE_IDLE = _counter(
    "namespace_idle_seconds_total",
    "Time for which containers of a namespace idled, warm or frozen; counted every five minutes.",
    *("namespace", "state"),
    unit="seconds",
)
NAMESPACE_IDLE_MEMORY = _counter(
    "namespace_idle_byte_seconds_total", "Memory reserved for idle containers times that.", "namespace", unit="byte_seconds"
)
THROTTLED = _counter("throttled_total", "Requests refused by a limit of the namespace.", "namespace", "reason")
REFUSED = _counter("refused_total", "Requests refused because of the node's own state.", "reason")

ACTION_ACTIVATIONS = _counter("action_activations_total", "Finished activations of an action.", "namespace", "action")
ACTION_ERRORS = _counter("action_errors_total", "Activations that did not end in success.", "namespace", "action")
ACTION_BILLED = _counter("action_billed_seconds_total", "Init plus run.", "namespace", "action", unit="seconds")

CONTAINERS = _gauge("containers", "Containers in each state.", "state")
TRANSITIONS = _counter(
    "container_transitions_total", "Changes of state; none is before the creation and after the end.", "before", "after"
)
STATE_SECONDS = _counter(
    "container_state_seconds_total", "Time spent by containers in a state which they have left.", "state", unit="seconds"
)
CONTAINER_START = _histogram("container_start_seconds", "Creating and starting a container, until its process runs.", "kind")
REPAIRS = _counter("containers_repaired_total", "Containers found frozen with a call in flight, and thawed.")
FREEZING = _gauge("freezing_works", "1 if the self-test found that the kernel freezes containers; else they stay warm.")
FREEZE_FAILURES = _counter("freeze_failures_total", "Containers that the kernel would not freeze, and that stayed warm.")
TAIL = _counter("tail_cpu_seconds_total", "CPU time that containers used after the reply, as in the ledger.", unit="seconds")
KERNEL_CPU = _counter("containers_cpu_seconds_total", "CPU time that the kernel counted in all containers.", unit="seconds")
UNBOOKED_CPU = _gauge(
    "unbooked_cpu_seconds",
    "Of that, what no activation pays: runtimes starting, stem cells, the self-test. Never below zero by more than rounding.",
    unit="seconds",
)
LEASES = _counter("leases_total", "Containers handed to activations, by what was found.", "start")
EVICTIONS = _counter("evictions_total", "Idle containers removed to make room for others.")
WAITING = _gauge("pool_waiting", "Activations that wait for a container.")
MEMORY_USED = _gauge("pool_memory_used_bytes", "Memory reserved by all containers, those being removed included.", unit="bytes")
MEMORY_BUDGET = _gauge("pool_memory_budget_bytes", "Memory that the pool may reserve.", unit="bytes")

ENGINE_UP = _gauge("engine_up", "1 if the container engine answered when last asked.")
ENGINE_SICK = _gauge(
    "engine_breaker_open", "1 if the engine missed its deadlines for a class of calls, which are then refused.", "class"
)
ENGINE_CALLS = _counter("engine_calls_total", "Requests to the container engine.", "operation", "result")
ENGINE_SECONDS = _histogram("engine_call_seconds", "Duration of requests to the container engine.", "operation")

RECORDER_LAG = _gauge("recorder_lag_seconds", "Age of the oldest record that is not yet in the ledger.", unit="seconds")
RECORDER_BACKLOG = _gauge("recorder_backlog_records", "Records in the journal that are not yet in the ledger.", unit="records")
JOURNAL_WRITE = _histogram("journal_write_seconds", "Appending one record to the journal: a stall here stalls all calls.")
DAMAGED = _gauge("damaged_rows", "Rows of a database that cannot be read and were set aside in `damaged/`.", "store")
LOG_DROPPED = _counter("log_lines_dropped_total", "Log lines of activations that were lost.")
LOG_LATE = _counter("log_lines_late_total", "Log lines that arrived after their activation was recorded.")

LOOP_LAG = _histogram("loop_lag_seconds", "How much later than asked the event loop ran a timer.")
SCRAPE_SNAPSHOT = _gauge("scrape_snapshot_seconds", "Time for which the last scrape held the event loop.", unit="seconds")
SCRAPE_RENDER = _gauge("scrape_render_seconds", "Time the last scrape spent in its thread.", unit="seconds")
DROPPED_SERIES = _counter(
    "metrics_dropped_series_total", "Updates counted under _other because their label was over its cap.", "label"
)
BUILD_INFO = _gauge(
    "build_info",
    "Constant 1; the labels tell what runs.",
    *("version", "revision", "python", "engine", "cgroup"),
)

#: All metrics, in the order of the exposition and of the documentation.
CATALOGUE: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
BY_NAME = {metric.name: metric for metric in CATALOGUE}


def as_markdown() -> str:
    """Render the catalogue as the table of `docs/metrics.md`."""
    rows = [
        "| {} | {} | {} | {} |".format(
            f"`{metric.name}`", metric.kind.value, ", ".join(f"`{label}`" for label in metric.labels) or "-", metric.help
        )
        for metric in CATALOGUE
    ]
    return "\n".join(("| name | type | labels | what it tells |", "| --- | --- | --- | --- |", *rows)) + "\n"
