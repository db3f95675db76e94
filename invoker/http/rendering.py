"""From values to JSON bodies. A result is put in as the text it came as. Entities: see `invoker.http.documents`.

An activation record has OpenWhisk's annotations, and these of ours beside them:

========== ============================================================================================================
key        value
========== ============================================================================================================
startKind  `cold`, `stem`, `warm` or `frozen`: what the activation found. Absent when it never had a container.
phases     Microseconds in each of `authenticate`, `authorise`, `resolve`, `queue`, `pull`, `create`, `thaw`, `init`, `run`,
           `collect`: disjoint, of one monotonic clock. Their sum is the whole time but for that of the network.
billed     `us`: init plus run, microseconds; `memoryMiB`: the declared limit. What a price plan multiplies. Absent of sequences
           and compositions: their parts are billed.
cpuTime    `us`: CPU time, microseconds; `quality`: `exact`, `shared` or `missing`; `throttledUs`: stopped by the CPU quota.
memoryPeak `bytes`: high-water mark, page cache included; `quality`: `exact`, `sampled` or `lifetime`.
memory     At the end of the run, bytes: `anonymous`, `shared` (tmpfs), `cache` (page cache of files).
traffic    Bytes of the bodies: `request`, `response`.
oomKills   Processes the kernel killed for memory. Absent when none.
cost       `amount` (decimal, a string), `currency`, `plan`. Absent when no plan prices it, and of sequences and compositions.
container  Id of the container that ran it. Absent when none did.
node       Name of the node.
outcome    How it ended, finer than `response.status`: `ok`, `timeout`, `oom`, `crashed`, `cancelled`, ...
========== ============================================================================================================

The annotations of memory and CPU are absent when no container ran.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from invoker.activation import Activation, Composition, Status
from invoker.config.model import LimitsConfig
from invoker.health import Health
from invoker.http.documents import limits_document
from invoker.http.limits import PARAMETERS_BYTES
from invoker.manifest import Manifest
from invoker.model import MIB, LimitOverrides
from invoker.sequence import SEQUENCE_LENGTH
from pool.model import ActivationId

#: What an activation costs: `amount`, `currency`, `plan`; None when nothing prices it.
Price = Callable[[Activation], Mapping[str, str] | None]

_encode = msgspec.json.Encoder().encode
_EMPTY = b"{}"


def render(value: object) -> bytes:
    """Render any value as compact JSON."""
    return _encode(value)


def render_error(sentence: str, transaction: str) -> bytes:
    """Render the body of every failure. Clients want both fields, and both as non-empty strings."""
    return _encode({"error": clean_text(sentence), "code": transaction})


def clean_text(text: str) -> str:
    """Make text of what HTTP let through: bytes of a header that were no UTF-8 become the replacement character."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def render_accepted(activation_id: ActivationId) -> bytes:
    """Render the answer that is an id alone."""
    return b'{"activationId":"%b"}' % activation_id.encode()


def render_count(collection: str, count: int) -> bytes:
    """Render the answer to `count=true`."""
    return _encode({collection: count})


def render_health(health: Health) -> bytes:
    """Render the checks, and whether all of them passed."""
    return _encode({"ok": health.ok, "checks": health.checks})


# --- activations ------------------------------------------------------------------------------------------------------


def activation_document(activation: Activation, logs: Sequence[str], price: Price) -> dict[str, Any]:
    """Build the whole record of an activation, ready for `render`."""
    document = {
        "namespace": activation.namespace,
        "name": activation.name,
        "version": activation.version,
        "subject": activation.subject,
        "activationId": activation.activation_id,
        "start": activation.start_ms,
        **_end(activation, activation.duration_ms),
        "response": _response(activation),
        "logs": logs,
        "annotations": [] if activation.is_trigger else _annotations(activation, price),
        "publish": False,
    }
    if activation.cause is not None:
        document["cause"] = activation.cause
    return document


def activation_summary(activation: Activation, price: Price) -> dict[str, Any]:
    """Build an entry of the list of activations.

    Its `duration` is from start to end, as upstream's view has it; the record of a composed one has the sum of its parts'.
    """
    summary = {
        "namespace": activation.namespace,
        "name": activation.name,
        "version": activation.version,
        "publish": False,
        "annotations": [] if activation.is_trigger else _annotations(activation, price),
        "activationId": activation.activation_id,
        "start": activation.start_ms,
        **_end(activation, activation.end_ms - activation.start_ms),
        "statusCode": int(activation.status),
    }
    if activation.cause is not None:
        summary["cause"] = activation.cause
    return summary


def render_activation(activation: Activation, logs: Sequence[str], price: Price) -> bytes:
    """Render the whole record of an activation; its result is copied in, byte for byte."""
    return _encode(activation_document(activation, logs, price))


def render_result(activation: Activation) -> bytes:
    """Render the result alone, exactly as it came; `{}` when there is none."""
    return _EMPTY if activation.result is None else bytes(activation.result)


def is_array(result: msgspec.Raw | None) -> bool:
    """Tell whether a result is a JSON array, from its first character that is no blank."""
    if result is None:
        return False
    head = bytes(memoryview(result)[:64]).lstrip()
    return (head or bytes(result).lstrip())[:1] == b"["


def render_response(activation: Activation) -> bytes:
    """Render how an activation ended, with its result: the body of `activations/ID/result`."""
    return _encode(_response(activation))


def render_logs(logs: Sequence[str]) -> bytes:
    """Render the body of `activations/ID/logs`."""
    return _encode({"logs": logs})


def _response(activation: Activation) -> dict[str, Any]:
    response: dict[str, Any] = {"status": activation.status.text, "success": activation.status is Status.SUCCESS}
    if activation.result is not None:
        response["result"] = activation.result
    if activation.size is not None:
        response["size"] = activation.size
    return response


class _Entry(msgspec.Struct):
    """One annotation; a struct is the cheapest object to make and to encode."""

    key: str
    value: Any


def _end(activation: Activation, duration_ms: int) -> dict[str, int]:
    if activation.is_trigger:
        return {}
    return {"end": activation.end_ms, "duration": duration_ms}


def _annotations(activation: Activation, price: Price) -> list[_Entry]:
    meter = activation.meter
    entries = [_Entry("path", activation.path), _Entry("kind", activation.kind), _Entry("waitTime", activation.wait_ms)]
    composition = activation.composition
    if composition is None:
        entries += (_Entry("limits", limits_document(activation.limits)), _Entry("timeout", activation.timed_out))
    else:
        entries += _of_composition(activation, composition)
    if activation.init_ms is not None:
        entries.append(_Entry("initTime", activation.init_ms))
    if activation.cause is not None:
        entries.append(_Entry("causedBy", "sequence"))
    if activation.binding is not None:
        entries.append(_Entry("binding", activation.binding))
    if meter.start_kind is not None:
        entries += (
            _Entry("startKind", meter.start_kind),
            _Entry("cpuTime", {"us": meter.cpu_us, "quality": meter.cpu_quality, "throttledUs": meter.throttled_us}),
            _Entry("memoryPeak", {"bytes": meter.peak_bytes, "quality": meter.peak_quality}),
            _Entry("memory", {"anonymous": meter.anonymous_bytes, "shared": meter.shared_bytes, "cache": meter.cache_bytes}),
        )
    if composition is None:
        entries.append(_Entry("billed", {"us": meter.billed_us, "memoryMiB": meter.memory_limit_mib}))
    entries += (
        _Entry("phases", meter.phases),
        _Entry("traffic", {"request": meter.request_bytes, "response": meter.response_bytes}),
    )
    if meter.oom_kills:
        entries.append(_Entry("oomKills", meter.oom_kills))
    cost = price(activation)
    if cost is not None:
        entries.append(_Entry("cost", cost))
    if activation.container is not None:
        entries.append(_Entry("container", activation.container))
    entries += (_Entry("node", activation.node), _Entry("outcome", meter.outcome))
    return entries


def _of_composition(activation: Activation, composition: Composition) -> list[_Entry]:
    """List what a sequence or composition has instead of an action's limits."""
    entries = [_Entry("topmost", composition.is_topmost)]
    if composition.parts:
        entries.append(_Entry("limits", limits_document(activation.limits)))
    if composition.is_conductor:
        entries.append(_Entry("conductor", value=True))
    return entries


# --- the node ---------------------------------------------------------------------------------------------------------


def render_root(manifest: Manifest, limits: LimitsConfig, support: Mapping[str, str]) -> bytes:
    """Render `GET /`: what clients read the kinds and their defaults from."""
    ranges = {
        "action_duration": (limits.timeout_min_ms, limits.timeout_max_ms),
        "action_memory": (limits.memory_min_mib * MIB, limits.memory_max_mib * MIB),
        "action_logs": (limits.logs_min_mib * MIB, limits.logs_max_mib * MIB),
    }
    numbers = {
        "actions_per_minute": limits.invocations_per_minute,
        "triggers_per_minute": limits.fires_per_minute,
        "concurrent_actions": limits.concurrent_invocations,
        "sequence_length": SEQUENCE_LENGTH,
        **{f"default_{bound}_{name}": value for name, both in ranges.items() for bound, value in zip(_BOUNDS, both, strict=True)},
        **{f"{bound}_{name}": value for name, both in ranges.items() for bound, value in zip(_BOUNDS, both, strict=True)},
    }
    return _encode(
        {
            "description": "OpenWhisk",
            "support": support,
            "api_paths": ["/api/v1"],
            "limits": numbers,
            "runtimes": {
                family: [
                    {
                        "kind": runtime.kind,
                        "image": runtime.image,
                        "deprecated": runtime.deprecated,
                        "default": runtime.default,
                        "attached": runtime.attached,
                        "requireMain": runtime.require_main,
                    }
                    for runtime in runtimes
                ]
                for family, runtimes in manifest.families.items()
            },
        }
    )


_BOUNDS = ("min", "max")


def render_api_info(build: str, build_number: str) -> bytes:
    """Render `GET /api/v1`; clients print both, and want both as strings."""
    return _encode(
        {
            "description": "OpenWhisk API",
            "api_version": "1.0.0",
            "api_version_path": "v1",
            "build": build,
            "buildno": build_number,
            "swagger_paths": {"ui": "/docs", "api-docs": "/api-docs"},
        }
    )


def render_limits(
    limits: LimitsConfig, own: LimitOverrides, *, invocations: int, concurrent: int, fires: int, cpu_s: int | None
) -> bytes:
    """Render `NS/limits`: the site's ranges, the namespace's rates, and what else it is restricted in, if it is."""
    granted = {
        "cpuSecondsPerWindow": cpu_s,
        "cpuWindowSeconds": None if cpu_s is None else limits.cpu_window_s,
        "allowedKinds": own.allowed_kinds,
        "storeActivations": own.store_activations,
    }
    return _encode(
        {
            "invocationsPerMinute": invocations,
            "concurrentInvocations": concurrent,
            "firesPerMinute": fires,
            "minActionMemory": limits.memory_min_mib,
            "maxActionMemory": limits.memory_max_mib,
            "minActionLogs": limits.logs_min_mib,
            "maxActionLogs": limits.logs_max_mib,
            "minActionTimeout": limits.timeout_min_ms,
            "maxActionTimeout": limits.timeout_max_ms,
            "minActionConcurrency": limits.concurrency_min,
            "maxActionConcurrency": limits.concurrency_max,
            "maxParameterSize": f"{PARAMETERS_BYTES} B",
            "maxActionInstances": concurrent,
            **{name: value for name, value in granted.items() if value is not None},
        }
    )
