"""The operators' side door: a Unix socket that only the daemon's own user may open, and what is served on it.

The handlers parse, call `Control` and render; they decide nothing. `Control` is what the daemon offers.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from invoker.control.messages import (
    BILL,
    CANCEL,
    CORRECTIONS,
    DRAIN,
    NAMESPACE,
    NAMESPACE_KEY,
    NAMESPACE_LIMITS,
    NAMESPACES,
    POOL,
    STATUS,
    USAGE,
    BillReply,
    CancelReply,
    ChangeNamespace,
    CorrectionReply,
    CreateNamespace,
    DrainReply,
    ErrorReply,
    KeyReply,
    MakeCorrection,
    Message,
    NamespaceLimits,
    NamespaceRow,
    NamespacesReply,
    PoolReply,
    PoolRow,
    StatusReply,
    UsageReply,
    UsageRow,
)
from invoker.errors import EntityNotFound, MalformedContent, MalformedQuery, answer_of
from invoker.model import LimitOverrides, Namespace
from pool.errors import InvokerError
from pool.model import ActivationId

_T = TypeVar("_T", bound=Message)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: Last millisecond that a signed 64-bit column holds: "until now and whatever comes".
_END_OF_TIME_MS = 2**63 - 1


class Control(Protocol):
    """What the daemon offers its operators. Refusals are raised as leaves of the error tree."""

    async def create_namespace(self, name: str, uid: int, gid: int, groups: Sequence[int], mounts: Sequence[str]) -> str:
        """Create a namespace and return its key, `uuid:key`, for the only time."""

    def list_namespaces(self) -> Sequence[Namespace]:
        """Return all namespaces, by name."""

    async def delete_namespace(self, name: str) -> None:
        """Delete a namespace, its entities and its containers; its ledger rows stay."""

    async def change_namespace(self, name: str, wanted: ChangeNamespace) -> None:
        """Change groups and mounts of a namespace; containers with the old ones serve no call any more."""

    async def rotate_key(self, name: str) -> str:
        """Give a namespace a new key, which is returned; the old one is refused from now on."""

    async def change_limits(self, name: str, limits: LimitOverrides) -> None:
        """Let a namespace do more or less than the site's limits say, from now on."""

    def pool_rows(self) -> Sequence[PoolRow]:
        """Return every container."""

    def status(self) -> StatusReply:
        """Tell how the daemon fares."""

    async def usage(self, namespace: str | None, since_ms: int, until_ms: int, *, by_action: bool = False) -> Sequence[UsageRow]:
        """Sum the ledger by namespace, and by action if asked, over `since_ms <= at < until_ms`; None is every namespace."""

    async def bill(self, namespace: str | None, month: str) -> BillReply:
        """Make the bills of a calendar month, such as `2026-11`, UTC; None is every namespace."""

    async def correct(self, wanted: MakeCorrection) -> CorrectionReply:
        """Write a correction of what an activation or a container is charged.

        Raises:
            InvalidRequest, EntityNotFound, EntityExists.
        """

    async def cancel(self, activation_id: ActivationId, namespace: str | None = None) -> CancelReply:
        """Cancel an activation: what is queued never runs, what runs is killed, recorded and billed to that moment.

        Args:
            activation_id: which one.
            namespace: it must be this one's, or it does not exist; None may cancel anybody's.

        Raises:
            EntityNotFound: unknown, or ended already.
        """

    async def drain(self) -> None:
        """Refuse new work from now on, and let what runs end. Returns at once; does not end the daemon."""


def build_control_app(control: Control) -> web.Application:
    """Build the application of the control socket."""

    async def pool(_: web.Request) -> web.Response:
        now = control.status()
        return _reply(
            PoolReply(
                containers=tuple(control.pool_rows()),
                waiting=now.waiting,
                memory_used_mib=now.memory_used_mib,
                memory_budget_mib=now.memory_budget_mib,
            )
        )

    async def status(_: web.Request) -> web.Response:
        return _reply(control.status())

    async def usage(request: web.Request) -> web.Response:
        since_ms, until_ms = _milliseconds(request, "since_ms", 0), _milliseconds(request, "until_ms", _END_OF_TIME_MS)
        by_action = request.query.get("by") == "action"
        rows = await control.usage(request.query.get("namespace"), since_ms, until_ms, by_action=by_action)
        return _reply(UsageReply(since_ms=since_ms, until_ms=until_ms, rows=tuple(rows)))

    async def bill(request: web.Request) -> web.Response:
        return _reply(await control.bill(request.query.get("namespace"), request.match_info["month"]))

    async def correct(request: web.Request) -> web.Response:
        return _reply(await control.correct(await _read(request, MakeCorrection)), status=201)

    async def cancel(request: web.Request) -> web.Response:
        return _reply(await control.cancel(ActivationId(request.match_info["id"])))

    async def drain(_: web.Request) -> web.Response:
        await control.drain()
        now = control.status()
        return _reply(DrainReply(running=now.running + now.waiting))

    app = web.Application(middlewares=[_errors_as_json])
    _route_namespaces(app, control)
    app.router.add_get(POOL, pool, allow_head=False)
    app.router.add_get(STATUS, status, allow_head=False)
    app.router.add_get(USAGE, usage, allow_head=False)
    app.router.add_get(BILL, bill, allow_head=False)
    app.router.add_post(CORRECTIONS, correct)
    app.router.add_post(CANCEL, cancel)
    app.router.add_post(DRAIN, drain)
    return app


def _route_namespaces(app: web.Application, control: Control) -> None:
    async def create_namespace(request: web.Request) -> web.Response:
        wanted = await _read(request, CreateNamespace)
        key = await control.create_namespace(wanted.name, wanted.uid, wanted.gid, wanted.groups, wanted.mounts)
        return _reply(KeyReply(key=key), status=201)

    async def list_namespaces(_: web.Request) -> web.Response:
        return _reply(NamespacesReply(namespaces=tuple(_row(each) for each in control.list_namespaces())))

    async def delete_namespace(request: web.Request) -> web.Response:
        await control.delete_namespace(request.match_info["name"])
        return web.json_response({})

    async def change_namespace(request: web.Request) -> web.Response:
        await control.change_namespace(request.match_info["name"], await _read(request, ChangeNamespace))
        return web.json_response({})

    async def rotate_key(request: web.Request) -> web.Response:
        return _reply(KeyReply(key=await control.rotate_key(request.match_info["name"])))

    async def show_limits(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        found = next((each for each in control.list_namespaces() if each.name == name), None)
        if found is None:
            raise EntityNotFound(f"there is no namespace {name!r}")
        return _reply(NamespaceLimits(**msgspec.structs.asdict(found.limits)))

    async def change_limits(request: web.Request) -> web.Response:
        wanted = await _read(request, NamespaceLimits)
        await control.change_limits(request.match_info["name"], LimitOverrides(**msgspec.structs.asdict(wanted)))
        return _reply(wanted)

    app.router.add_post(NAMESPACES, create_namespace)
    app.router.add_get(NAMESPACES, list_namespaces, allow_head=False)
    app.router.add_delete(NAMESPACE, delete_namespace)
    app.router.add_put(NAMESPACE, change_namespace)
    app.router.add_post(NAMESPACE_KEY, rotate_key)
    app.router.add_get(NAMESPACE_LIMITS, show_limits, allow_head=False)
    app.router.add_put(NAMESPACE_LIMITS, change_limits)


@asynccontextmanager
async def serve_control(control: Control, path: Path) -> AsyncIterator[None]:
    """Serve the control socket while the block runs; the file is there exactly that long.

    A file of this name that an earlier daemon left is replaced: the caller holds the lock of the state directory, so
    nobody listens on it.

    Args:
        control: what the daemon offers.
        path: of the socket; mode 0600 from its first moment.

    Raises:
        OSError: the socket cannot be made there.
    """
    # No keep-alive of an idle connection may hold up the daemon's end: a command asks once and leaves.
    runner = web.AppRunner(build_control_app(control), access_log=None, keepalive_timeout=5.0, shutdown_timeout=1.0)
    await runner.setup()
    listening = _listen(path)
    try:
        await web.SockSite(runner, listening).start()
        yield
    finally:
        await runner.cleanup()
        listening.close()
        _remove(path)


def _remove(path: Path) -> None:
    """Remove the socket's file, if it is there: one unlink on a local disk."""
    path.unlink(missing_ok=True)


def _listen(path: Path) -> socket.socket:
    """Bind a Unix socket which nobody but its owner can ever have opened."""
    _remove(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    # The mode must be right before the file has its name: chmod after bind would leave a moment for others.
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
        listening.listen(64)
    except OSError:
        listening.close()
        raise
    finally:
        os.umask(before)
    return listening


@web.middleware
async def _errors_as_json(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except InvokerError as error:
        return _reply(ErrorReply(error=str(error), code=error.code), status=answer_of(error).status)
    except web.HTTPError as error:
        return _reply(ErrorReply(error=f"{request.method} {request.path}: {error.reason}", code="no-route"), status=error.status)


async def _read(request: web.Request, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except msgspec.MsgspecError as error:
        raise MalformedContent.because(str(error)) from error


def _milliseconds(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or int(text) > _END_OF_TIME_MS:
        raise MalformedQuery.because(name, f"{text!r} is no number of milliseconds since the epoch")
    return int(text)


def _reply(message: Message, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(message), content_type="application/json", status=status)


def _row(namespace: Namespace) -> NamespaceRow:
    fields: dict[str, Any] = {name: getattr(namespace, name) for name in NamespaceRow.__struct_fields__}
    return NamespaceRow(**fields)
