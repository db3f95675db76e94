"""The action container's contract: bodies of /init and /run, and what an answer means.

`classify_...` are the tables of the OpenWhisk contract as functions of values; `initialise` and `run` send and wait.
Source of the sentences: OpenWhisk, `ActivationResult.scala`, `ErrorResponse`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

import msgspec

from invoker.activation import Status
from pool.connection import Response
from pool.errors import ConnectionLost, ContainerStartFailed, ResponseNotHttp
from pool.lease import Lease

#: Bytes of a /init response that are read; it only holds an error.
INIT_RESPONSE_BYTES = 64 * 1024

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.encode


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How an activation's work ended.

    Attributes:
        status: by whose fault.
        result: JSON text; None where there is none.
        size: length of the response in characters as the runtime sent it; None where fabricated.
        reason: stable name, finer than the status.
        keep: the container came to a clean end and may serve again.
        timed_out: it hit its time limit.
        response_bytes: bytes of the response body.
    """

    status: Status
    result: msgspec.Raw | None
    size: int | None = None
    reason: str = "ok"
    keep: bool = False
    timed_out: bool = False
    response_bytes: int = 0

    @classmethod
    def failure(
        cls, status: Status, sentence: str, reason: str, *, keep: bool = False, timed_out: bool = False, response_bytes: int = 0
    ) -> Outcome:
        """Make the result `{"error": sentence}`."""
        return cls(
            status=status,
            result=msgspec.Raw(_encode({"error": sentence})),
            reason=reason,
            keep=keep,
            timed_out=timed_out,
            response_bytes=response_bytes,
        )


def init_body(
    *,
    name: str,
    main: str | None,
    code: str | None,
    code_path: str | None,
    binary: bool,
    environment: Mapping[str, str],
) -> bytes:
    """Build the body of /init: code as a string, or the path at which our runtimes find it unpacked."""
    value: dict[str, object] = {"name": name, "main": main or "main", "binary": binary, "env": environment}
    if code_path is not None:
        value["code_path"] = code_path
    elif code is not None:
        value["code"] = code
    return _encode({"value": value})


def run_prefix(*, namespace: str, action_name: str, version: str) -> bytes:
    """Build what is the same in every /run body of an action for a namespace."""
    fixed = _encode({"namespace": namespace, "action_name": action_name, "action_version": version})
    return fixed[:-1] + b","


def run_body(
    prefix: bytes, arguments: msgspec.Raw, *, activation_id: str, transaction: str, deadline_ms: int, api_key: str | None
) -> bytes:
    """Build the body of /run. Every value but `value` is a string, as the launchers demand."""
    rest: dict[str, str] = {"activation_id": activation_id, "transaction_id": transaction, "deadline": str(deadline_ms)}
    if api_key is not None:
        rest["api_key"] = api_key
    return b"".join((prefix, _encode(rest)[1:-1], b',"value":', arguments, b"}"))


async def initialise(lease: Lease, body: bytes, *, deadline: float, timeout_ms: int) -> Outcome | None:
    """Send /init. Return None on success, which the lease is told, else how the activation ended.

    Args:
        lease: of a container without code.
        body: from `init_body`.
        deadline: seconds of the loop's clock.
        timeout_ms: the limit that the deadline stands for, for the sentence.

    Raises:
        ThawFailed: nothing has run.
    """
    try:
        response = await lease.request(b"/init", body, deadline=deadline, limit=INIT_RESPONSE_BYTES)
    except TimeoutError:
        sentence = f"The action exceeded its time limits of {timeout_ms} milliseconds during initialization."
        return Outcome.failure(Status.DEVELOPER_ERROR, sentence, "init-timeout", timed_out=True)
    except ContainerStartFailed:
        sentence = "The action did not initialize and exited unexpectedly: its container ended before it listened on port 8080."
        return Outcome.failure(Status.DEVELOPER_ERROR, sentence, "container-start-failed")
    except (ConnectionLost, ResponseNotHttp):
        sentence = "The action did not initialize and exited unexpectedly."
        return Outcome.failure(Status.DEVELOPER_ERROR, sentence, "init-exited")
    outcome = classify_init(response)
    if outcome is None:
        lease.initialised(takes_one=response.takes_one)
    return outcome


def classify_init(response: Response) -> Outcome | None:
    """Turn an answer to /init into an end, or None: go on to /run."""
    if response.status == 200:
        return None
    said = _error_of(response)
    if said is not None:
        result = msgspec.Raw(b'{"error":' + bytes(said) + b"}")
        return Outcome(status=Status.DEVELOPER_ERROR, result=result, reason="init-failed", response_bytes=response.length)
    text = response.body.decode("utf-8", "replace").strip()
    sentence = "The action failed during initialization" + (f": {text}" if text else ".")
    return Outcome.failure(Status.DEVELOPER_ERROR, sentence, "init-failed", response_bytes=response.length)


async def run(lease: Lease, body: bytes, *, deadline: float, timeout_ms: int, limit_bytes: int) -> Outcome:
    """Send /run and say how it ended.

    Args:
        lease: of a container with its code.
        body: from `run_body`.
        deadline: seconds of the loop's clock.
        timeout_ms: the limit that the deadline stands for, for the sentence.
        limit_bytes: longest result.

    Raises:
        ThawFailed: nothing has run.
    """
    return await outcome_of(
        lease.request(b"/run", body, deadline=deadline, limit=limit_bytes), timeout_ms=timeout_ms, limit_bytes=limit_bytes
    )


async def outcome_of(answer: Awaitable[Response], *, timeout_ms: int, limit_bytes: int) -> Outcome:
    """Wait for the response to /run and say how it ended; else as `run`."""
    try:
        response = await answer
    except TimeoutError:
        sentence = f"The action exceeded its time limits of {timeout_ms} milliseconds."
        return Outcome.failure(Status.DEVELOPER_ERROR, sentence, "timeout", timed_out=True)
    except (ConnectionLost, ContainerStartFailed):
        sentence = "The action did not produce a valid response and exited unexpectedly."
        return Outcome.failure(Status.DEVELOPER_ERROR, sentence, "crashed")
    except ResponseNotHttp as error:
        sentence = f"The action did not produce a valid JSON or JSON Array response: {error}"
        return Outcome.failure(Status.DEVELOPER_ERROR, sentence, "bad-response")
    return classify_run(response, limit_bytes)


def classify_run(response: Response, limit_bytes: int) -> Outcome:
    """Turn an answer to /run into an end.

    Args:
        response: its body is cut at `limit_bytes`; its length is the real one.
        limit_bytes: longest result.
    """
    body = bytes(response.body)
    if response.length > limit_bytes:
        shown = body.decode("utf-8", "replace")
        sentence = (
            f"The action produced a response that exceeded the allowed length: {response.length} > {limit_bytes} bytes. "
            f"The truncated response was: {shown}"
        )
        return Outcome(
            status=Status.APPLICATION_ERROR,
            result=msgspec.Raw(_encode({"error": sentence})),
            size=response.length,
            reason="result-too-large",
            keep=True,
            response_bytes=response.length,
        )
    if response.status == 200:
        outcome = _classify_result(body)
        if outcome is not None:
            return outcome
    else:
        said = _error_of(response)
        if said is not None:
            result = msgspec.Raw(b'{"error":' + bytes(said) + b"}")
            return Outcome(
                status=Status.DEVELOPER_ERROR, result=result, size=_characters(body), reason="failed", response_bytes=len(body)
            )
    text = body.decode("utf-8", "replace")
    sentence = f"The action did not produce a valid JSON or JSON Array response: {text}"
    return Outcome.failure(Status.DEVELOPER_ERROR, sentence, "bad-response", response_bytes=len(body))


def _classify_result(body: bytes) -> Outcome | None:
    """A 200: an object, an array, or nothing we know (None)."""
    text = body.strip()
    try:
        if text[:1] == b"{":
            fields = _decode_object(text)
            if "error" in fields:
                result = msgspec.Raw(b'{"error":' + bytes(fields["error"]) + b"}")
                status, reason = Status.APPLICATION_ERROR, "application-error"
            else:
                result, status, reason = msgspec.Raw(text), Status.SUCCESS, "ok"
        elif text[:1] == b"[":
            _decode_array(text)
            result, status, reason = msgspec.Raw(text), Status.SUCCESS, "ok"
        else:
            return None
        size = _characters(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return Outcome(status=status, result=result, size=size, reason=reason, keep=True, response_bytes=len(body))


def _error_of(response: Response) -> msgspec.Raw | None:
    try:
        return _decode_object(response.body).get("error")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _characters(body: bytes) -> int:
    return len(body) if body.isascii() else len(body.decode())
