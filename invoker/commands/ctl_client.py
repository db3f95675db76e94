"""The HTTP client of `invokerctl`: TCP, TLS and Unix sockets on the standard library, which starts quickly."""

from __future__ import annotations

import base64
import enum
import json
import re
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlencode, urlsplit

import click

if TYPE_CHECKING:
    import http.client

#: A blocking invocation answers within 60 s, finished or not; a little more for the way.
TIMEOUT_S = 75.0


class Exit(enum.IntEnum):
    """Exit codes of `invokerctl`."""

    OK = 0
    #: The daemon refused, or failed.
    REFUSED = 1
    #: The command line makes no sense.
    USAGE = 2
    #: Nobody answers.
    UNREACHABLE = 3
    #: The activation ended, and did not succeed.
    ACTION_FAILED = 4
    #: A blocking invocation was not finished in time; it goes on.
    NOT_FINISHED = 5
    #: The configuration file is not usable.
    BAD_CONFIG = 78


class Failure(click.ClickException):
    """What the user is told: what was wrong, where, and what to do; and the exit code."""

    def __init__(self, message: str, exit_code: Exit = Exit.REFUSED, hint: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it on the class and reads it from the instance
        self.hint = hint

    def show(self, file: Any = None) -> None:
        """Print to stderr, the hint on a line of its own."""
        click.echo(f"invokerctl: {self.format_message()}", err=file is None, file=file)
        if self.hint:
            click.echo(f"  {self.hint}", err=file is None, file=file)


class Reply(NamedTuple):
    """An answer of any status."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Decode the body; a body that is not JSON comes back as text."""
        try:
            return json.loads(self.body)
        except ValueError:
            return self.body.decode(errors="replace")


class Client:
    """Asks one server, one connection a request.

    Args:
        url: `http://host:port`, `https://host:port`, or `unix:///path/of/socket`.
        auth: `uuid:key` for Basic authentication.
        insecure: take any certificate.
        timeout_s: for each wait on the socket.
        start_hint: what to do when nobody answers.
    """

    def __init__(
        self, url: str, *, auth: str | None = None, insecure: bool = False, timeout_s: float = TIMEOUT_S, start_hint: str = ""
    ) -> None:
        self.url = url
        self.auth = auth
        self._insecure = insecure
        self._timeout_s = timeout_s
        self._start_hint = start_hint

    def request(self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: bytes | None = None) -> Reply:
        """Send one request and read the whole answer, whatever its status.

        Args:
            method: HTTP method.
            path: begins with `/`, percent-encoded.
            query: parameters; those that are None are left out.
            body: JSON text.

        Raises:
            Failure: nobody answers (exit code 3).
        """
        headers = {"Accept": "application/json", "User-Agent": "invokerctl"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self.auth:
            headers["Authorization"] = "Basic " + base64.b64encode(self.auth.encode()).decode()
        given = {name: value for name, value in (query or {}).items() if value is not None}
        import http.client

        connection = self._connection()
        target = urlsplit(self.url).path.rstrip("/") if not self.url.startswith("unix:") else ""
        target += path + (f"?{urlencode(given)}" if given else "")
        try:
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def ask(self, method: str, path: str, *, query: Mapping[str, Any] | None = None, body: bytes | None = None) -> Reply:
        """Send one request that has to succeed.

        Raises:
            Failure: nobody answers, the answer is not a 2xx, or not of a server that we know how to talk to.
        """
        reply = self.request(method, path, query=query, body=body)
        if not 200 <= reply.status < 300:
            raise refusal(reply, path)
        if reply.body and "json" not in reply.headers.get("content-type", "json"):
            raise Failure(
                f"{self.url} answers, but not as OpenWhisk's API does", hint="is --apihost, or APIHOST of ~/.wskprops, right?"
            )
        return reply

    def _connection(self) -> http.client.HTTPConnection:
        import http.client

        try:
            parts = urlsplit(self.url)
            scheme, host, port = parts.scheme, parts.hostname, parts.port
        except ValueError:  # a port that is no number, or a bracket too many
            scheme, host, port = "", None, None
        if scheme == "unix":
            return _unix_connection(parts.path, self._timeout_s)
        if scheme not in ("http", "https") or not host:
            raise Failure(f"{self.url!r} is no address of a server", Exit.USAGE, "write http://host:port or https://host:port")
        if scheme == "http":
            return http.client.HTTPConnection(host, port or 80, timeout=self._timeout_s)
        import ssl

        context = ssl.create_default_context()
        if self._insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection(host, port or 443, timeout=self._timeout_s, context=context)

    def _unreachable(self, error: Exception) -> Failure:
        hint = self._start_hint
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, PermissionError):
            hint = "run this as the daemon's user (root): sudo invokerctl ..."
        elif isinstance(error, TimeoutError):
            reason = f"no answer within {self._timeout_s:g} s"
        elif "WRONG_VERSION_NUMBER" in str(error):
            hint = "it does not speak TLS: write http:// and not https://"
        elif "CERTIFICATE" in str(error):
            hint = "give --insecure to take any certificate, or http:// where the server has no TLS"
        return Failure(f"cannot reach {self.url}: {reason}", Exit.UNREACHABLE, hint)


def _unix_connection(path: str, timeout_s: float) -> http.client.HTTPConnection:
    """Make a connection to a Unix socket. The class stands in here so that http.client is imported late."""
    import http.client

    class UnixConnection(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(path)

    return UnixConnection("localhost", timeout=timeout_s)


_HINTS = {
    401: "give your key with --auth UUID:KEY, or as AUTH=UUID:KEY in ~/.wskprops",
    403: "your key does not allow this; ask the owner of that namespace",
    404: "what there is: invokerctl namespace get, or activation list",
    409: "it is there already, or not empty: `update` replaces, `delete` makes room",
    413: "GET / of the API tells the limits",
    429: "wait a little; the operator can raise the limits of a namespace",
    503: "the node is busy or stopping: try again; the operator's `invokerctl status` says why",
}


#: By the header that names the reason; these go before those of a status.
_HINTS_OF_REASONS = {
    "invalid-name": "a name has letters, digits, _ @ . & - and blanks within, and begins with a letter, a digit or _",
    "runtime-not-supported": "a kind is a runtime such as python:3; an executable needs --native, an image --docker IMAGE",
}


def refusal(reply: Reply, path: str = "") -> Failure:
    """Turn an answer that is not a 2xx into what the user is told.

    Args:
        reply: the answer.
        path: what was asked for; it is named where the answer tells of something that is not there, or is there already.
    """
    body = reply.json()
    by_status = "" if path.startswith("/v1/") else _HINTS.get(reply.status, "")  # those are for users, not for operators
    hint = _HINTS_OF_REASONS.get(reply.headers.get("x-invokerd-reason", ""), by_status)
    if isinstance(body, dict) and "error" in body:
        what = f" {_entity(path)}" if reply.status in (404, 409) and _entity(path) else ""
        code = f" (code {body['code']})" if body.get("code") else ""
        return Failure(f"{body['error']}{what}{code}", hint=hint)
    return Failure(f"HTTP status {reply.status}: {str(body)[:500] or 'no text'}", hint=hint)


def _entity(path: str) -> str:
    """Name the entity of a path of the API, such as `[action tools/find]`; empty for other paths."""
    found = re.fullmatch(r"/api/v1/namespaces/([^/]+)/(action|activation|package|trigger|rule)s/([^?]+)", path)
    if found is None:
        return ""
    owner, kind, name = unquote(found[1]), found[2], unquote(found[3])
    if name.endswith("/"):  # what is in a package
        kind, name = "package", name[:-1]
    return f"[{kind} {name if owner == '_' else f'/{owner}/{name}'}]"
