"""Bounds of the API that no site changes, and the check of an action's limits against those that it does."""

from __future__ import annotations

from invoker.config.model import LimitsConfig
from invoker.errors import LimitOutOfRange
from invoker.model import MIB, Limits

#: Parameters, and annotations, of one entity: sum over the entries of the key and the compact JSON of the value.
PARAMETERS_BYTES = MIB
ANNOTATIONS_BYTES = MIB
#: Body of any request.
REQUEST_BYTES = 50 * MIB
#: Within which a request's body must have arrived.
BODY_WAIT_S = 30.0
#: The longest that a blocking invocation waits for the end, and its default.
BLOCKING_WAIT_MS = 60_000
#: Entries of one page of a list.
LIST_DEFAULT = 30
LIST_MAXIMUM = 200
#: Characters of a name.
NAME_LENGTH = 256
#: Characters of an `Idempotency-Key`, and of an `X-Request-ID` that is taken over.
KEY_LENGTH = 256


def default_limits(site: LimitsConfig) -> Limits:
    """Limits of an action that names none."""
    return Limits(
        timeout=site.timeout_default_ms,
        memory=site.memory_default_mib,
        logs=site.logs_default_mib,
        concurrency=site.concurrency_default,
    )


def check_action_limits(limits: Limits, site: LimitsConfig, concurrent_invocations: int) -> None:
    """Refuse limits outside the site's ranges; one sentence, of the first that is.

    Args:
        limits: as they would be stored.
        site: the ranges, bounds included.
        concurrent_invocations: of the namespace; `instances` may not be larger.

    Raises:
        LimitOutOfRange: with the words that OpenWhisk's clients and tests look for.
    """
    checks = (
        ("duration", " milliseconds", limits.timeout, site.timeout_min_ms, site.timeout_max_ms),
        ("memory size", " MB", limits.memory, site.memory_min_mib, site.memory_max_mib),
        ("log size", " MB", limits.logs, site.logs_min_mib, site.logs_max_mib),
        ("concurrency", "", limits.concurrency, site.concurrency_min, site.concurrency_max),
    )
    for what, unit, value, least, most in checks:
        if value > most:
            raise LimitOutOfRange(f"{what} {value}{unit} exceeds allowed threshold of {most}{unit}")
        if value < least:
            raise LimitOutOfRange(f"{what} {value}{unit} below allowed threshold of {least}{unit}")
    if limits.instances is not None and limits.instances > concurrent_invocations:
        raise LimitOutOfRange(
            f"instances {limits.instances} must not exceed the namespace concurrency of {concurrent_invocations} invocations"
        )
