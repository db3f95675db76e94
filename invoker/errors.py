"""Failures of the daemon that a caller meets, and the only map from an error to an HTTP status.

The branches stand in `pool/errors.py`; here are the leaves of this layer. Sentences are OpenWhisk's where its clients or
tests match them. What went wrong *inside* an action is no failure of the request: it becomes an activation record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pool import errors as pool_errors
from pool.errors import ActionError, InvokerError, PlatformError, RequestError

# --- who asks ---------------------------------------------------------------------------------------------------------


class Unauthenticated(RequestError):
    """The resource requires authentication, which was not supplied with the request."""

    code = "unauthenticated"


class BadCredentials(Unauthenticated):
    """The supplied authentication is invalid."""

    code = "bad-credentials"


class NotAuthorised(RequestError):
    """The supplied authentication is not authorized to access this resource."""

    code = "not-authorised"

    @classmethod
    def for_resource(cls, resource: str) -> NotAuthorised:
        """Name the resource, `namespace/...`, without a leading slash."""
        return cls(f"The supplied authentication is not authorized to access '{resource}'.")


class Throttled(RequestError):
    """Too many requests.

    Attributes:
        retry_after_s: when it may help to ask again, seconds.
    """

    code = "throttled"

    def __init__(self, message: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


# --- what is asked for ------------------------------------------------------------------------------------------------


class NoRoute(RequestError):
    """The requested resource could not be found."""

    code = "no-route"


class MethodNotAllowed(RequestError):
    """The method is not allowed here.

    Attributes:
        allow: the methods that are.
    """

    code = "method-not-allowed"

    def __init__(self, allow: Sequence[str]) -> None:
        self.allow = ", ".join(allow)
        super().__init__(f"HTTP method not allowed, supported methods: {self.allow}")


class EntityNotFound(RequestError):
    """The requested resource does not exist."""

    code = "not-found"

    @classmethod
    def named(cls, resource: str) -> EntityNotFound:
        """Name the resource: for a package, and for its owner only."""
        return cls(f"The requested resource '{resource}' does not exist.")


class WrongCollection(RequestError):
    """Resource by this name exists but is not in this collection."""

    code = "wrong-collection"


class EntityExists(RequestError):
    """The resource already exists."""

    code = "already-exists"


class EntityConflict(RequestError):
    """The resource is in a state that does not allow this."""

    code = "entity-conflict"


class KindNotAllowed(NotAuthorised):
    """The namespace may not have actions of this kind."""

    code = "kind-not-allowed"


class ConcurrentModification(RequestError):
    """Concurrent modification to resource detected."""

    code = "concurrent-modification"


class IdempotencyConflict(RequestError):
    """This Idempotency-Key was used before with another request body."""

    code = "idempotency-conflict"


# --- how it is asked --------------------------------------------------------------------------------------------------


class BadHttp(RequestError):
    """The request is not well-formed HTTP/1.1."""

    code = "bad-http"


class MalformedContent(RequestError):
    """The request content was malformed."""

    code = "malformed-content"

    @classmethod
    def because(cls, detail: str) -> MalformedContent:
        """Say what is wrong with the body."""
        return cls(f"The request content was malformed:\n{detail}")


class MalformedQuery(RequestError):
    """A query parameter was malformed."""

    code = "malformed-query"

    @classmethod
    def because(cls, name: str, detail: str) -> MalformedQuery:
        """Say which parameter, and what is wrong with it."""
        return cls(f"The query parameter '{name}' was malformed:\n{detail}")


class InvalidRequest(RequestError):
    """The request cannot be fulfilled as it stands."""

    code = "invalid-request"


class InvalidName(InvalidRequest):
    """The name of the entity contains illegal characters."""

    code = "invalid-name"


class ParametersNotAllowed(InvalidRequest):
    """Request defines parameters that are not allowed (e.g., reserved properties)."""

    code = "parameters-not-allowed"


class LimitOutOfRange(InvalidRequest):
    """A limit is outside the range that this site allows."""

    code = "limit-out-of-range"


class RuntimeNotSupported(InvalidRequest):
    """The specified runtime is not supported by this platform."""

    code = "runtime-not-supported"


class RuntimeDeprecated(InvalidRequest):
    """The runtime is no longer supported."""

    code = "runtime-deprecated"


class TooLarge(RequestError):
    """The request is larger than allowed."""

    code = "too-large"

    @classmethod
    def measured(cls, field: str, size: int, allowed: int) -> TooLarge:
        """Name what is too large (`exec`, `parameters`, `annotations`, `Request`), and both sizes in bytes."""
        return cls(f"{field} larger than allowed: {size} > {allowed} bytes.")


class UnsupportedMediaType(RequestError):
    """The request's Content-Type is not supported."""

    code = "unsupported-media-type"

    @classmethod
    def instead_of_json(cls, content_type: str | None) -> UnsupportedMediaType:
        """Name the type that came (None: none came) where JSON is needed."""
        got = f" [{content_type}]" if content_type else ""
        return cls(f"The request's Content-Type{got} is not supported. Expected:\napplication/json")


class NotAcceptable(RequestError):
    """The resource is only available as application/json."""

    code = "not-acceptable"


class BodyTooSlow(RequestError):
    """The request's body did not arrive in time."""

    code = "body-too-slow"


# --- what a web action made of it -------------------------------------------------------------------------------------


class WebResultInvalid(InvalidRequest):
    """The web action's result cannot be sent as what was asked for."""

    code = "web-result-invalid"

    @classmethod
    def for_type(cls, media: str) -> WebResultInvalid:
        """Name the media type that the result is not valid for."""
        return cls(f"Response is not valid '{media}'.")


class WebActionFailed(InvalidRequest):
    """There was an error processing your request."""

    code = "web-action-failed"


class WebPropertyMissing(RequestError):
    """The action's response does not include requested property."""

    code = "web-property-missing"


class WebAuthRequired(RequestError):
    """The web action requires authentication, which was not supplied with the request."""

    code = "web-auth-required"


# --- the API gateway ---------------------------------------------------------------------------------------------------


class DocumentError(InvalidRequest):
    """The API's document cannot be served by this gateway."""

    code = "api-document"


class NoApi(RequestError):
    """No API is served under this path."""

    code = "no-api"


# --- what we cannot do now --------------------------------------------------------------------------------------------


class JournalFull(PlatformError):
    """The journal has no room left: running activations end as usual, new ones are refused."""

    code = "journal-full"


class NestedWouldWait(PlatformError):
    """The action was called from inside another one, and the node has no memory for it while those that wait keep theirs.

    Call it without waiting, or in a sequence; or let the node have more memory.
    """

    code = "nested-would-wait"


class EntityCorrupted(PlatformError):
    """Resource is corrupted and cannot be read."""

    code = "entity-corrupted"

    @classmethod
    def named(cls, resource: str) -> EntityCorrupted:
        """Name the resource."""
        return cls(f"Resource '{resource}' is corrupted and cannot be read.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How one kind of error is answered.

    Attributes:
        status: HTTP status.
        retry_after_s: for the header `Retry-After`, seconds; an error's own `retry_after_s` goes before. None: no header.
        rejection: refused before any entity was looked at; upstream sends no CORS headers with these.
    """

    status: int
    retry_after_s: float | None = None
    rejection: bool = False


#: One row per class that is answered in its own way; every other class is answered as its nearest ancestor here.
ANSWERS: dict[type[InvokerError], Answer] = {
    InvokerError: Answer(status=500),
    RequestError: Answer(status=400),
    ActionError: Answer(status=502),
    PlatformError: Answer(status=500),
    # refused at the door
    BadHttp: Answer(status=400, rejection=True),
    Unauthenticated: Answer(status=401, rejection=True),
    NoRoute: Answer(status=404, rejection=True),
    MethodNotAllowed: Answer(status=405, rejection=True),
    NotAcceptable: Answer(status=406, rejection=True),
    BodyTooSlow: Answer(status=408, rejection=True),
    UnsupportedMediaType: Answer(status=415, rejection=True),
    MalformedContent: Answer(status=400, rejection=True),
    MalformedQuery: Answer(status=400, rejection=True),
    WebAuthRequired: Answer(status=401),
    WebPropertyMissing: Answer(status=404),
    NoApi: Answer(status=404),
    # refused by what is there
    NotAuthorised: Answer(status=403),
    EntityNotFound: Answer(status=404),
    WrongCollection: Answer(status=409),
    EntityExists: Answer(status=409),
    EntityConflict: Answer(status=409),
    ConcurrentModification: Answer(status=409),
    IdempotencyConflict: Answer(status=409),
    TooLarge: Answer(status=413),
    Throttled: Answer(status=429, retry_after_s=1.0),
    # the node's state
    JournalFull: Answer(status=503, retry_after_s=30.0),
    NestedWouldWait: Answer(status=503, retry_after_s=1.0),
    pool_errors.TooManyWaiting: Answer(status=429, retry_after_s=1.0),
    pool_errors.PoolOverloaded: Answer(status=503, retry_after_s=1.0),
    pool_errors.ThawFailed: Answer(status=503, retry_after_s=1.0),
    pool_errors.WaitedTooLong: Answer(status=503, retry_after_s=1.0),
    pool_errors.PoolClosed: Answer(status=503, retry_after_s=5.0),
    pool_errors.EngineUnavailable: Answer(status=503, retry_after_s=5.0),
    pool_errors.EngineError: Answer(status=503, retry_after_s=5.0),
}


def answer_of(error: InvokerError) -> Answer:
    """Find how an error is answered: by its class, or by the nearest ancestor that has a row."""
    return next(ANSWERS[ancestor] for ancestor in type(error).__mro__ if ancestor in ANSWERS)


def retry_after_s(error: InvokerError) -> float | None:
    """Say after how many seconds it may help to ask again; None where that is not known to help."""
    own = getattr(error, "retry_after_s", None)
    return own if isinstance(own, (int, float)) else answer_of(error).retry_after_s
