"""Values of the daemon: who calls, what is called, and what became of it. Frozen; changed by `msgspec.structs.replace`."""

from __future__ import annotations

import enum
import functools
from typing import Any

import msgspec

from pool.model import ActivationId, PeakQuality, StartKind

MIB = 1024 * 1024
#: What the record of a trigger has for a kind. Clients never see it: such records have no annotations.
TRIGGER_KIND = "trigger"


class Collection(enum.Enum):
    """The kinds of entity. All of them share one tree of names per namespace."""

    ACTIONS = "actions"
    PACKAGES = "packages"
    TRIGGERS = "triggers"
    RULES = "rules"


#: A view of the collection of packages (see `EntityStore.list`): those that other namespaces see. No package has this name.
PUBLISHED = "*published*"


class LimitOverrides(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the site grants one namespace beside its defaults; None is the site's default.

    Attributes:
        allowed_kinds: of the actions that it may write; None is all.
        store_activations: false keeps no records, results or logs of what it runs; it is billed all the same.
    """

    invocations_per_minute: int | None = None
    concurrent_invocations: int | None = None
    fires_per_minute: int | None = None
    allowed_kinds: tuple[str, ...] | None = None
    store_activations: bool | None = None

    def problems(self) -> list[str]:
        """Say what is wrong with them; nothing when they can be used."""
        rates = ("invocations_per_minute", "concurrent_invocations", "fires_per_minute")
        return [f"{name} is {value}; it must be 0 or more" for name in rates if (value := getattr(self, name) or 0) < 0]


class Namespace(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant: a name, a Unix identity, and a key of which only a keyed hash is kept.

    Attributes:
        name: also the subject.
        uuid: the user part of the key.
        key_hash: HMAC-SHA-256 of the key under the node's pepper, hexadecimal.
        uid, gid, groups: the identity its activations run under.
        created_ms: wall clock.
        mounts: names of the site's mounts that it may use.
        limits: overrides.
        blocked: true refuses its credentials.
    """

    name: str
    uuid: str
    key_hash: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    created_ms: int
    mounts: tuple[str, ...] = ()
    limits: LimitOverrides = LimitOverrides()
    blocked: bool = False


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated caller.

    Attributes:
        namespace: whose credentials these are.
        api_key: `uuid:key` as presented, handed to actions that may have it; never stored, never logged.
    """

    namespace: Namespace
    api_key: str


class Parameter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of a parameter list. `value` is kept as the client's own JSON text.

    Attributes:
        init: goes to the environment at /init, not to /run.
        encryption: name of the cipher at rest; None is plain.
    """

    key: str
    value: msgspec.Raw
    init: bool = False
    encryption: str | None = None


class Annotation(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of an annotation list; `value` as in `Parameter`."""

    key: str
    value: msgspec.Raw


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """An action's limits, in the API's units: milliseconds, MiB, MiB, count."""

    timeout: int = 60_000
    memory: int = 256
    logs: int = 10
    concurrency: int = 1
    instances: int | None = None


class Exec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an action executes.

    Attributes:
        kind: resolved (`python:3`, never `python:default`), or `blackbox`, `sequence`.
        code: SHA-256 of the `code` string as sent, the name of the file in the code store; None without code.
        code_bytes: length of that string.
        binary: the string is canonical base64.
        main: entry point; None is the runtime's default.
        image: of a blackbox, verbatim.
        components: of a sequence, full paths: `ns/[package/]name`.
    """

    kind: str
    code: str | None = None
    code_bytes: int = 0
    binary: bool = False
    main: str | None = None
    image: str | None = None
    components: tuple[str, ...] = ()


class Entity(msgspec.Struct, frozen=True, kw_only=True):
    """What all entities share.

    Attributes:
        namespace: name of the namespace that owns it.
        path: name within the namespace: `name`, or `package/name` of a packaged action.
        revision: new with each write; 32 hexadecimal digits.
        version: `major.minor.patch`.
        updated: milliseconds since the epoch.
    """

    namespace: str
    path: str
    revision: str
    version: str = "0.0.1"
    publish: bool = False
    updated: int
    annotations: tuple[Annotation, ...] = ()
    parameters: tuple[Parameter, ...] = ()

    @property
    def name(self) -> str:
        """Last segment of the path."""
        return self.path.rpartition("/")[2]

    @property
    def package(self) -> str | None:
        """Name of the package that holds it, None in the default package."""
        return self.path.rpartition("/")[0] or None

    @property
    def full_path(self) -> str:
        """`namespace/[package/]name`, no leading slash."""
        return f"{self.namespace}/{self.path}"

    def annotation(self, key: str) -> Any:
        """Decode the value of an annotation; None when absent."""
        for entry in self.annotations:
            if entry.key == key:
                return msgspec.json.decode(entry.value)
        return None

    def says_yes(self, key: str, *, if_absent: bool = False) -> bool:
        """Read an annotation that means yes or no by its value's truth: the one rule for all of them, `is_truthy`.

        Annotations that must be `true` itself, `web-export` among them, do not go by it.
        """
        if all(entry.key != key for entry in self.annotations):
            return if_absent
        return is_truthy(self.annotation(key))


def is_truthy(value: Any) -> bool:
    """Tell what an annotation's decoded value means where a yes or no is wanted: all but false, 0, "" and null is yes."""
    return bool(value) or isinstance(value, (dict, list))


class Action(Entity, frozen=True, kw_only=True, tag="action", dict=True):
    """A function: what to execute, within which limits."""

    exec: Exec
    limits: Limits = Limits()
    #: Image id that the kind's or the blackbox's image had when the action was written; None until resolved.
    image_id: str | None = None

    @functools.cached_property
    def is_composed(self) -> bool:
        """Whether to run it is to run others: it is a sequence, or a conductor (`conductor` is truthy)."""
        return self.exec.kind == "sequence" or self.says_yes("conductor")


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """The package that a binding stands for."""

    namespace: str
    name: str

    @property
    def full_path(self) -> str:
        """`namespace/name`, no leading slash."""
        return f"{self.namespace}/{self.name}"


class Package(Entity, frozen=True, kw_only=True, tag="package"):
    """A folder of actions with parameters that they inherit; or, with `binding`, another name for one."""

    binding: Binding | None = None


class Trigger(Entity, frozen=True, kw_only=True, tag="trigger"):
    """A named event. Which rules it has is told by the rules: see `Rule.is_linked`.

    Attributes:
        birth: made anew with each trigger and kept by its updates: one that is deleted and made again has no rules.
        had_rules: the last of its rules was taken off: clients are shown that there are none, not nothing.
    """

    birth: str
    had_rules: bool = False


class RuleStatus(enum.Enum):
    """Whether a rule does anything when its trigger fires."""

    ACTIVE = "active"
    INACTIVE = "inactive"


class Rule(Entity, frozen=True, kw_only=True, tag="rule"):
    """Has an action run when a trigger fires. Both may be gone: the rule stays.

    Attributes:
        trigger: full path, `ns/name`; always of the rule's own namespace.
        action: full path, `ns/[package/]name`, as it was given: it may lead through a binding.
        status: as it was set; it counts only while the rule is linked: see `status_under`.
        link: `birth` of the trigger that it was linked to; None when that was gone already.
        linked_ms: when it was linked, or made active anew: a trigger's rules run in this order. Milliseconds since the epoch.
    """

    trigger: str
    action: str
    status: RuleStatus = RuleStatus.ACTIVE
    link: str | None = None
    linked_ms: int = 0

    def is_linked(self, trigger: Trigger | None) -> bool:
        """Tell whether a trigger (what is now at the path that the rule names) has this rule."""
        return trigger is not None and self.link == trigger.birth and self.trigger == trigger.full_path

    def status_under(self, trigger: Trigger | None) -> RuleStatus:
        """Status that counts: a rule whose trigger is gone, or does not link it, is inactive."""
        return self.status if self.is_linked(trigger) else RuleStatus.INACTIVE


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
