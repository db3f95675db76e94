"""The error tree of the whole daemon: one root, three branches by whose fault it is, and the pool's own leaves.

It stands in `pool` because `pool` is the lowest package; the others add leaves. The docstring of a class is
its default message. Foreign exceptions are turned into these at one seam each (`docker.py`, `store.py`, `runtime.py`).
"""


class InvokerError(Exception):
    """Something went wrong in invokerd."""

    #: Stable name of this failure, in kebab case: in logs, in `docs/errors.md`, in metrics.
    code = "internal"
    #: Of a failed `ContainerBackend.create`: the engine was not asked for anything, so that there is nothing to remove.
    nothing_made = False

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().split("\n\n")[0])


class RequestError(InvokerError):
    """The request is at fault."""

    code = "request"


class ActionError(InvokerError):
    """The action is at fault."""

    code = "action"


class PlatformError(InvokerError):
    """The platform is at fault.

    Attributes:
        activation_id: of the activation that met it and was recorded; None where none was begun.
    """

    code = "platform"
    activation_id: str | None = None


class PoolOverloaded(PlatformError):
    """The node is busy: too many activations wait for a container. Try again later."""

    code = "node-full"

    def __init__(self, message: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyWaiting(PoolOverloaded):
    """Too many activations of this user wait for a container. Try again later."""

    code = "user-queue-full"


class MemoryNeverAvailable(RequestError):
    """The action's memory limit is larger than the whole pool's memory, or than one user may have."""

    code = "memory-never-available"


class WaitedTooLong(PlatformError):
    """No container became free within the time an activation may wait."""

    code = "waited-too-long"


class PoolClosed(PlatformError):
    """The daemon is stopping and starts no more work."""

    code = "stopping"


class EngineError(PlatformError):
    """The container engine refused or failed a request."""

    code = "engine-error"


class EngineUnavailable(EngineError):
    """The container engine does not answer.

    Attributes:
        retry_after_s: when it will be asked again, seconds from now; None where that is not known.
    """

    code = "engine-unavailable"
    retry_after_s: float | None = None


class EngineDiskFull(EngineError):
    """The disk of the container engine is nearly full: no new containers until there is space; warm ones go on."""

    code = "engine-disk-full"


class MountUnavailable(EngineError):
    """A directory that the site mounts for the action does not answer, or is not there: its file server may be down."""

    code = "mount-unavailable"


class ContainerUnkillable(EngineError):
    """A container's process does not end, although it was killed: the kernel is waiting for something, such as a dead mount."""

    code = "container-unkillable"


class ImageNotFound(ActionError):
    """The image does not exist, or may not be pulled."""

    code = "image-not-found"


class ContainerStartFailed(ActionError):
    """The container ended before it could serve."""

    code = "container-start-failed"


class ConnectionLost(ActionError):
    """The container closed the connection before it had answered."""

    code = "connection-lost"


class ResponseNotHttp(ActionError):
    """The container answered something that is not HTTP/1.1."""

    code = "response-not-http"


class IllegalTransition(InvokerError):
    """A bug in invokerd: a container was moved to a state that its present state does not allow."""

    code = "illegal-transition"


class ThawFailed(PlatformError):
    """The kernel would not let a frozen container run; nothing was done."""

    code = "thaw-failed"


class ContainerUnreachable(ThawFailed):
    """A container that had its code could not be reached any more; nothing was sent to it."""

    code = "container-unreachable"
