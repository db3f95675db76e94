"""Values of the daemon: who calls, and what is called. Frozen; changed by `msgspec.structs.replace`."""

from __future__ import annotations

import enum
import functools
from typing import Any

import msgspec

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
        cpu_seconds_per_window: within `limits.cpu_window_s`.
        allowed_kinds: of the actions that it may write; None is all.
        store_activations: false keeps no records, results or logs of what it runs; it is billed all the same.
    """

    invocations_per_minute: int | None = None
    concurrent_invocations: int | None = None
    fires_per_minute: int | None = None
    cpu_seconds_per_window: int | None = None
    allowed_kinds: tuple[str, ...] | None = None
    store_activations: bool | None = None

    def problems(self) -> list[str]:
        """Say what is wrong with them; nothing when they can be used."""
        rates = ("invocations_per_minute", "concurrent_invocations", "fires_per_minute", "cpu_seconds_per_window")
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
