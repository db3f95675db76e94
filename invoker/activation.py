"""What becomes of a call: its promise, and the record of its end. Frozen; changed by `msgspec.structs.replace`."""

from __future__ import annotations

import enum

import msgspec

from invoker.model import TRIGGER_KIND, Limits
from pool.model import ActivationId, PeakQuality, StartKind


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """An activation that was promised: it survives the daemon until it has a finished record.

    Attributes:
        namespace: the caller's, which is billed.
        subject: who called.
        path: of the action, `ns/[package/]name`.
        payload: JSON text of the arguments; in the journal and the database sealed by the vault.
        transaction: id of the request.
        accepted_ms: wall clock.
        timeout_ms: time limit of the action at that moment; 0 when unknown.
        cause: id of the enclosing sequence.
        idempotency_key: from the header `Idempotency-Key`.
        body_sha256: of the request's body, hexadecimal; with the key.
        binding: full path of the package binding that the action was called through.
        composed: it is the whole of a sequence or composition: what it runs has activations of their own.
    """

    activation_id: ActivationId
    namespace: str
    subject: str
    path: str
    payload: msgspec.Raw
    transaction: str
    accepted_ms: int
    timeout_ms: int = 0
    cause: str | None = None
    idempotency_key: str | None = None
    body_sha256: str | None = None
    binding: str | None = None
    composed: bool = False


class Status(enum.IntEnum):
    """How an activation ended, by whose fault. The numbers are OpenWhisk's `statusCode`."""

    SUCCESS = 0
    APPLICATION_ERROR = 1
    DEVELOPER_ERROR = 2
    INTERNAL_ERROR = 3

    @property
    def text(self) -> str:
        """The record's `response.status`."""
        return ("success", "application error", "action developer error", "whisk internal error")[self]


class Phases(msgspec.Struct, frozen=True, kw_only=True):
    """Disjoint spans of one activation, microseconds of one monotonic clock; their sum is the total.

    Attributes:
        authenticate: from the request's last byte to a known caller (parsing included).
        authorise: rights and limits.
        resolve: finding the action, merging parameters.
        queue: waiting for a container, less what `pull`, `create` and `thaw` explain.
        pull: fetching the image, where this activation waited for it.
        create: creating and starting the container, where this activation waited for it.
        thaw: choosing and waking the container.
        init: /init, dialling included.
        run: /run, from the request's first byte to the response's last.
        collect: reading the counters and writing the journal.
    """

    authenticate: int = 0
    authorise: int = 0
    resolve: int = 0
    queue: int = 0
    pull: int = 0
    create: int = 0
    thaw: int = 0
    init: int = 0
    run: int = 0
    collect: int = 0

    @property
    def total(self) -> int:
        """Microseconds from the request's last byte to the written journal."""
        return sum(getattr(self, name) for name in self.__struct_fields__)


class CpuQuality(enum.Enum):
    """How the CPU time of an activation was found."""

    #: The container's counter before and after; nothing else ran in it.
    EXACT = "exact"
    #: Split among activations that shared the container.
    SHARED = "shared"
    #: No container ran, or its counter was gone.
    MISSING = "missing"


class Meter(msgspec.Struct, frozen=True, kw_only=True):
    """The facts that are billed: integers only, written once, never changed.

    Attributes:
        start_kind: None when no container was ever held.
        memory_limit_mib: declared.
        billed_us: init plus run, microseconds: what the activation record calls duration.
        cpu_us: from the moment the container was handed out to the response's last byte.
        cpu_quality: how that was found.
        peak_bytes, peak_quality: high-water mark of memory, page cache included.
        anonymous_bytes, shared_bytes, cache_bytes: at the end of the run.
        throttled_us: for how long the CPU quota stopped the container.
        oom_kills: processes the kernel killed for memory.
        request_bytes, response_bytes: bodies of the invocation and of its result.
        outcome: stable reason, finer than the status: `ok`, `application-error`, `timeout`, `oom`, `crashed`, `cancelled`,
            `lost`, ... (catalogue in docs/errors.md).
    """

    start_kind: StartKind | None = None
    memory_limit_mib: int = 0
    billed_us: int = 0
    cpu_us: int = 0
    cpu_quality: CpuQuality = CpuQuality.MISSING
    peak_bytes: int = 0
    peak_quality: PeakQuality = PeakQuality.LIFETIME
    anonymous_bytes: int = 0
    shared_bytes: int = 0
    cache_bytes: int = 0
    throttled_us: int = 0
    oom_kills: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    outcome: str = "ok"
    phases: Phases = Phases()


class Composition(msgspec.Struct, frozen=True, kw_only=True):
    """What the record of a sequence or composition has beside that of an action.

    Attributes:
        parts: ids of what it ran, in order, without what ran inside a nested one. They stand for its log lines.
        duration_ms: sum over the parts.
        is_conductor: a conductor decided what runs.
        is_topmost: it is no part of another one.
    """

    parts: tuple[ActivationId, ...] = ()
    duration_ms: int = 0
    is_conductor: bool = False
    is_topmost: bool = True


class Activation(msgspec.Struct, frozen=True, kw_only=True):
    """One run of an action, finished: what the API shows, and what is billed. Logs are stored apart.

    Attributes:
        namespace: the caller's, which is billed.
        path: of the action, `ns/[package/]name`; the record's `name` is its last segment.
        container: id of the container that ran it, None if none did.
        start_ms, end_ms: wall clock. `end_ms - start_ms` is init plus run.
        wait_ms: from the request's arrival to the start of init (cold, stem) or run (warm, frozen).
        init_ms: None unless it was initialised for this activation.
        timed_out: whether it hit its time limit.
        result: JSON text; None where the platform has none.
        size: length of the response body in characters as the runtime sent it; None where fabricated.
        cause: id of the enclosing sequence.
        transaction: id of the request.
        binding: full path of the package binding that the action was called through.
        composition: of a sequence or composition; None of an action.
    """

    activation_id: ActivationId
    node: str
    namespace: str
    subject: str
    path: str
    version: str
    kind: str
    limits: Limits
    start_ms: int
    end_ms: int
    status: Status
    result: msgspec.Raw | None = None
    size: int | None = None
    wait_ms: int = 0
    init_ms: int | None = None
    timed_out: bool = False
    container: str | None = None
    cause: str | None = None
    transaction: str = ""
    binding: str | None = None
    composition: Composition | None = None
    meter: Meter = Meter()

    @property
    def name(self) -> str:
        """Name of the action without namespace and package."""
        return self.path.rpartition("/")[2]

    @property
    def duration_ms(self) -> int:
        """Init plus run; of a sequence or composition the sum over its parts, which is less than the time it took."""
        return self.end_ms - self.start_ms if self.composition is None else self.composition.duration_ms

    @property
    def is_trigger(self) -> bool:
        """Whether this is the record of a trigger that fired: it has no end."""
        return self.kind == TRIGGER_KIND
