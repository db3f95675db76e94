"""What the Python and the black-box runtime share: a small HTTP/1.1 server, OpenWhisk's container contract, and the log.

Standard library only, and little of it: whatever is imported here is paid for at each cold start.
One action runs at a time, in the main thread, so that signals and libraries which insist on it behave as in a script.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from _thread import RLock, start_new_thread  # `threading` would be another millisecond

SENTINEL = b"XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX\n"
NO_ACTIVATION = "0" * 32
#: Code, parameters and results; upstream's limit too.
BODY_BYTES = 64 * 1024 * 1024
HEAD_BYTES = 64 * 1024
#: Read at once. Of more than 128 KiB each read would map memory and give it back: 30 us a request.
READ_BYTES = 64 * 1024
#: With the answer to /init: the code takes one activation at a time, whatever the image could do.
TAKES_ONE = b"X-Invokerd-Takes: 1\r\n"
REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 500: "Internal Server Error", 502: "Bad Gateway"}


class Refused(Exception):
    """The request ends with this HTTP status and `{"error": message}`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class PlainLog:
    """Standard output and error as they are, each activation closed by a sentinel line: what other OpenWhisks expect."""

    def begin(self, activation_id: str) -> Voice | None:
        """Nothing to do: the platform tells activations apart by the sentinels."""

    def hear(self, current: object, later: object) -> None:
        """Nothing to do: streams that end with sentinels cannot be told apart while several activations write."""

    def write(self, stream: str, lines: list[bytes]) -> None:
        """Write whole lines; `stream` is `o` or `e`."""
        data = memoryview(b"".join(line + b"\n" for line in lines))
        while data:
            data = data[os.write(1 if stream == "o" else 2, data) :]

    def tell_unfinished(self, stream: str, text: bytes) -> None:
        """Nothing to do: it could not be taken back."""

    def watch(self, fd: int, stream: str) -> None:
        """Give up on what a background process may still write: nobody could tell whose it is."""
        os.close(fd)

    def end(self, voice: Voice | None = None, *, sentinel: bool) -> bytes:
        """Close the activation. Returns header lines for the response."""
        flush_streams()
        if sentinel:
            os.write(1, SENTINEL)
            os.write(2, SENTINEL)
        return b""


class Voice:
    """What one activation has said.

    Attributes:
        name: its id, as it stands in frames.
        written: frames in the FIFO.
        dropped: lines that did not fit.
        patience_s: for how long it may still wait for a full FIFO.
        rests: by stream, text that it wrote through a `VoicedStream` and whose newline has not come yet.
    """

    def __init__(self, name: bytes, patience_s: float) -> None:
        self.name = name
        self.written = self.dropped = 0
        self.patience_s = patience_s
        self.rests: dict[str, bytes] = {}


class Source:
    """A pipe that somebody writes log text to.

    Attributes:
        stream: `o` or `e`.
        rest: bytes of a line whose newline has not come yet, at most TEXT_BYTES + 4.
    """

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.rest = b""


class FramedLog:
    """The log as frames on a FIFO that the daemon reads.

    A frame is `<activation id> <seq> <stream> <microseconds> <text>` and a newline, at most FRAME_BYTES; a capital stream
    letter says that the line goes on in the stream's next frame. A line whose newline does not come soon is told as it is so far,
    in a frame `h` (stdout) or `H` (stderr), so that a process that is killed has said it. Descriptors 1 and 2 become pipes, so that C libraries and
    child processes are heard too. A thread moves what arrives in them while the action runs; before an answer
    is sent, the main thread moves the rest itself. A full FIFO costs an activation PATIENCE_S at most: then lines are
    dropped and counted, since a reader that is slow or dead must not stop a function.
    """

    FRAME_BYTES = 4096
    #: Longest text of a frame. With HEAD_BYTES, which is more than any head and newline, it fits.
    TEXT_BYTES = 3900
    HEAD_BYTES = 80
    PATIENCE_S = 0.25
    #: How long the end of a line may take before the line is told as it is so far, s.
    UNFINISHED_S = 0.1
    #: Capacity of a pipe: one read of this size takes all that had been written when it began.
    PIPE_BYTES = 65536

    def __init__(self, path: str) -> None:
        # Reading too: there is always a reader, so neither EOF nor EPIPE while no daemon runs.
        self._fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._writable = select.poll()
        self._writable.register(self._fifo, select.POLLOUT)
        # Guards all that follows; held while frames are written. One may come in twice: what a signal or the collector of garbage
        # runs in the middle of a write may print.
        self._lock = RLock()
        self._sources: dict[int, Source] = {}
        self._arrived = select.epoll()
        #: Of the activation that began last: it owns what comes through descriptors.
        self._voice = Voice(NO_ACTIVATION.encode(), self.PATIENCE_S)
        for fd, stream in ((1, "o"), (2, "e")):
            reader, writer = os.pipe()
            os.dup2(writer, fd)
            os.close(writer)
            self.watch(reader, stream)
        start_new_thread(self._pump, ())

    def begin(self, activation_id: str) -> Voice:
        """Let the lines from here on belong to this activation; what came before belongs to the last one."""
        name = activation_id.encode()
        with self._lock:
            self._drain()
            if name != self._voice.name:  # /init and /run of one activation share their count
                self._close_lines()
                self._voice = Voice(name, self.PATIENCE_S)
            return self._voice

    def write(self, stream: str, lines: list[bytes]) -> None:
        """Write whole lines; `stream` is `o` or `e`."""
        with self._lock:
            self._emit(self._voice, stream, lines)

    def tell_unfinished(self, stream: str, text: bytes) -> None:
        """Tell what a line is so far, where it may never come to its end, or may be no line of the log."""
        with self._lock:
            self._tell_unfinished(self._voice, stream, text)

    def hear(self, current: object, later: object) -> None:
        """Put in the place of Python's two streams what asks, at each write, whose it is.

        Args:
            current: a function; returns the `Voice` of who writes, None for the activation that began last.
            later: a function; has the one that it is given called in a moment when the action waits. False: it cannot.
        """
        import io

        unfinished: set[Voice] = set()

        def tell() -> None:
            with self._lock:
                while unfinished:
                    voice = unfinished.pop()
                    for stream, rest in voice.rests.items():
                        self._tell_unfinished(voice, stream, rest)

        def take(stream: str, data: bytes) -> None:
            with self._lock:
                self._drain()  # what children wrote before comes before
                voice = current() or self._voice
                *lines, rest = (voice.rests.pop(stream, b"") + data).split(b"\n")
                voice.rests[stream] = rest
                self._emit(voice, stream, lines)
                if len(rest) > self.TEXT_BYTES:
                    voice.rests[stream] = self._emit_long(voice, stream, rest)
                if rest and (unfinished or later(tell)):
                    unfinished.add(voice)

        class VoicedStream(io.RawIOBase):
            def __init__(self, stream: str, fd: int) -> None:
                self._stream, self._fd = stream, fd

            def writable(self) -> bool:
                return True

            def fileno(self) -> int:
                return self._fd  # for children that are to write there

            def write(self, data: bytes) -> int:
                take(self._stream, bytes(data))
                return len(data)

        for name, stream, fd in (("stdout", "o", 1), ("stderr", "e", 2)):
            old = getattr(sys, name)
            raw = VoicedStream(stream, fd)
            setattr(sys, name, io.TextIOWrapper(raw, encoding=old.encoding, errors=old.errors, write_through=True))

    def watch(self, fd: int, stream: str) -> None:
        """Take over the read end of a pipe, until its writers are gone."""
        self._sources[fd] = Source(stream)
        self._arrived.register(fd, select.EPOLLIN)

    def end(self, voice: Voice | None = None, *, sentinel: bool) -> bytes:
        """Write all there is. Returns the response's header line with the number of frames written and dropped.

        Args:
            voice: of the activation that ends, where several run side by side; else it is the one that began last.
            sentinel: means nothing here.
        """
        flush_streams()
        with self._lock:
            voice = voice or self._voice
            self._drain()
            if voice is self._voice:
                self._close_lines()
            self._close_voice(voice)
            return b"X-Invokerd-Logs: %d,%d\r\n" % (voice.written, voice.dropped)

    def _pump(self) -> None:
        patience_s = None
        while True:
            arrived = self._arrived.poll(patience_s)
            with self._lock:
                if arrived:
                    self._drain()
                    patience_s = self.UNFINISHED_S if any(source.rest for source in self._sources.values()) else None
                    continue
                for source in self._sources.values():
                    self._tell_unfinished(self._voice, source.stream, source.rest)
                patience_s = None

    def _drain(self) -> None:
        """Move what is in the pipes now; text that is written meanwhile by others may wait for the next time."""
        for fd, _ in self._arrived.poll(0):
            source = self._sources[fd]
            data = os.read(fd, self.PIPE_BYTES)
            if data:
                *lines, source.rest = (source.rest + data).split(b"\n")
                self._emit(self._voice, source.stream, lines)
                if len(source.rest) > self.TEXT_BYTES:
                    source.rest = self._emit_long(self._voice, source.stream, source.rest)
            else:  # the last writer has closed it
                self._emit(self._voice, source.stream, [source.rest] if source.rest else [])
                self._arrived.unregister(fd)  # closing would not do while a forked child has a copy
                del self._sources[fd]
                os.close(fd)

    def _close_lines(self) -> None:
        """Write the unfinished lines as lines: an activation does not borrow text from the next."""
        for source in self._sources.values():
            if source.rest:
                self._emit(self._voice, source.stream, [source.rest])
                source.rest = b""

    def _close_voice(self, voice: Voice) -> None:
        for stream, rest in voice.rests.items():
            if rest:
                self._emit(voice, stream, [rest])
        voice.rests.clear()

    def _emit(self, voice: Voice, stream: str, lines: list[bytes]) -> None:
        """Write lines as frames, as many to a write as the kernel takes in one piece."""
        now_us = time.time_ns() // 1000
        letter = stream.encode()
        batch, count = b"", 0
        for line in lines:
            if len(batch) + len(line) + self.HEAD_BYTES > self.FRAME_BYTES:
                self._put(voice, batch, count)
                batch, count = b"", 0
                if len(line) > self.TEXT_BYTES:
                    line = self._emit_long(voice, stream, line)
            batch += b"%b %d %b %d %b\n" % (voice.name, voice.written + count, letter, now_us, line)
            count += 1
        self._put(voice, batch, count)

    def _emit_long(self, voice: Voice, stream: str, line: bytes) -> bytes:
        """Write a long line's pieces, but for its end, which is returned. No UTF-8 character is cut."""
        start = 0
        while len(line) - start > self.TEXT_BYTES:
            end = start + self.TEXT_BYTES
            while end > start + self.TEXT_BYTES - 3 and line[end] & 0xC0 == 0x80:
                end -= 1
            head = b"%b %d %b %d " % (voice.name, voice.written, stream.upper().encode(), time.time_ns() // 1000)
            self._put(voice, head + line[start:end] + b"\n", 1)
            start = end
        return line[start:]

    def _tell_unfinished(self, voice: Voice, stream: str, text: bytes) -> None:
        """Write a frame that does not count, unless the FIFO is full."""
        if text:
            letter = b"h" if stream == "o" else b"H"
            frame = b"%b %d %b %d %b\n" % (voice.name, voice.written, letter, time.time_ns() // 1000, text[: self.TEXT_BYTES])
            try:
                os.write(self._fifo, frame)
            except BlockingIOError:
                pass

    def _put(self, voice: Voice, batch: bytes, count: int) -> None:
        """Write `count` frames in one piece, or drop them."""
        while count:
            try:
                os.write(self._fifo, batch)
            except BlockingIOError:
                before = time.monotonic()
                is_writable = voice.patience_s > 0 and self._writable.poll(voice.patience_s * 1000)
                voice.patience_s -= time.monotonic() - before
                if not is_writable:
                    voice.dropped += count
                    return
            else:
                voice.written += count
                return


def flush_streams() -> None:
    """Flush Python's own buffers, whatever the action has made of them."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:  # noqa: BLE001, S110 - closed, replaced or None: theirs to do, not ours to fail on
            pass


def open_log() -> PlainLog | FramedLog:
    """Choose the log by the container's environment. A pipe that was promised and is not there is fatal."""
    path = os.environ.get("__OW_LOG_PIPE")
    log = FramedLog(path) if path else PlainLog()
    sys.stdout.reconfigure(line_buffering=True)
    return log


class Runtime:
    """OpenWhisk's container contract. A runtime of a language adds `initialise`, `run` and `exercise`."""

    def __init__(self) -> None:
        self.log = open_log()
        self.is_initialised = False
        #: The code that came with /init may run several times side by side.
        self.takes_several = False
        self._pid = os.getpid()

    def initialise(self, value: dict[str, object]) -> None:
        """Take the code. Raises Refused, with what the user should know."""
        raise NotImplementedError

    def run(self, argument: dict[str, object] | list[object]) -> bytes:
        """Run the action once. Returns the result's JSON; raises Refused."""
        raise NotImplementedError

    def exercise(self) -> None:
        """Do once, without trace, what the first activation would otherwise wait for."""

    def serve_together(self, listener: socket.socket, connections: list[tuple[socket.socket, bytearray]]) -> None:
        """Go on as the server of an action that runs several times side by side, until the process is killed."""
        raise NotImplementedError

    def handle(self, method: bytes, path: bytes, body: bytes) -> tuple[int, bytes, bytes]:
        """Answer one request: status, body, further header lines."""
        try:
            if method == b"POST" and path == b"/run":
                return self._run(body)
            if method == b"POST" and path == b"/init":
                return self._initialise(body)
            if method == b"GET" and path == b"/":
                self.exercise()
                return 200, b'{"ok":true}', b""
            raise Refused(404, "There is only POST /init, POST /run and GET /.")
        except Refused as refused:
            return refused.status, error_body(refused.message), b""
        except Exception as error:  # noqa: BLE001 - an error of ours is told, too: the platform ends this container
            import traceback

            traceback.print_exc()
            self.leave_if_forked()
            return 500, error_body(f"The runtime failed: {type(error).__name__}: {error}"), self.log.end(sentinel=True)

    def _initialise(self, body: bytes) -> tuple[int, bytes, bytes]:
        value = parse(body).get("value") or {}
        if not isinstance(value, dict):
            raise Refused(404, "The body of /init must hold an object under 'value'.")
        if self.is_initialised and os.environ.get("PROXY_ALLOW_REINIT") != "1":
            raise Refused(403, "Cannot initialize the action more than once.")
        environment = value.get("env") or {}
        self.begin(environment.get("__OW_ACTIVATION_ID"))
        try:
            export(environment)
            self.initialise(value)
        except Refused as refused:
            self.leave_if_forked()
            return refused.status, error_body(refused.message), self.log.end(sentinel=True)
        self.leave_if_forked()
        self.is_initialised = True
        takes = b"" if self.takes_several else TAKES_ONE
        return 200, b'{"ok":true}', self.log.end(sentinel=False) + takes

    def _run(self, body: bytes) -> tuple[int, bytes, bytes]:
        argument, context, activation_id = read_run(body)
        self.begin(activation_id)
        try:
            export(context)
            status, result = 200, self.run(argument)
        except Refused as refused:
            status, result = refused.status, error_body(refused.message)
        self.leave_if_forked()
        return status, result, self.log.end(sentinel=True)

    def begin(self, activation_id: object) -> Voice | None:
        """Let the log belong to an activation from here on; returns its voice, where the log has voices."""
        is_usable = (
            isinstance(activation_id, str) and len(activation_id) == 32 and activation_id.isalnum() and activation_id.isascii()
        )
        return self.log.begin(activation_id if is_usable else NO_ACTIVATION)

    def leave_if_forked(self) -> None:
        """A child that the action forked and let return ends here: there is one server, and it is not this process."""
        if os.getpid() != self._pid:
            flush_streams()
            os._exit(0)


def parse(body: bytes) -> dict[str, object]:
    """Decode a request body. Raises Refused when it is no JSON object."""
    import json

    try:
        request = json.loads(str(body, "utf-8")) if body else {}
    except (ValueError, RecursionError) as error:  # nested deeper than this Python reads
        raise Refused(400, f"The request is not valid JSON: {error}") from None
    if not isinstance(request, dict):
        raise Refused(404, "The request must be a JSON object.")
    return request


def read_run(body: bytes) -> tuple[dict[str, object] | list[object], dict[str, object], object]:
    """Take a body of /run apart: the argument, environment variables, the activation's id. Raises Refused."""
    request = parse(body)
    argument = request.pop("value", None)
    if not isinstance(argument, (dict, list)):
        raise Refused(404, "The action did not receive a dictionary or array as an argument.")
    return argument, {f"__OW_{key.upper()}": text for key, text in request.items()}, request.get("activation_id")


def error_body(message: str) -> bytes:
    """Encode what a client of OpenWhisk reads from a failure."""
    import json

    return json.dumps({"error": message}).encode()


def export(variables: dict[str, object]) -> None:
    """Set environment variables. What is no string is left out; Raises Refused for what the kernel cannot hold."""
    try:
        for name, text in variables.items():
            if isinstance(text, str) and os.environ.get(name) != text:  # most are as in the last call, and setting costs more
                os.environ[name] = text
    except (ValueError, OSError) as error:
        raise Refused(400, f"Environment variable {name!r} cannot be set: {error}") from None


class Server:
    """HTTP/1.1 over kept connections, one request at a time. It never closes an idle connection."""

    def __init__(self) -> None:
        """Listen at once, so that the daemon's first connection succeeds while the rest is still being imported."""
        port = int(os.environ.get("__OW_PORT") or os.environ.get("FLASK_PROXY_PORT") or 8080)
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("", port))
        self._listener.listen(64)

    def serve_forever(self, runtime: Runtime) -> None:
        """Answer requests until the process is killed."""
        listener = self._listener
        # Connection and its unread bytes, by descriptor. Connections wait here while an action runs.
        connections: dict[int, tuple[socket.socket, bytearray]] = {}
        ready = select.epoll()
        ready.register(listener, select.EPOLLIN)
        while True:
            for fd, _ in ready.poll():
                if fd == listener.fileno():
                    connection, _ = listener.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    connections[connection.fileno()] = connection, bytearray()
                    ready.register(connection, select.EPOLLIN)
                    continue
                connection, buffer = connections[fd]
                if not self._serve(connection, buffer, runtime):
                    del connections[fd]
                    ready.unregister(connection)
                    connection.close()
                if runtime.takes_several and runtime.is_initialised:
                    ready.close()
                    return runtime.serve_together(listener, list(connections.values()))

    def _serve(self, connection: socket.socket, buffer: bytearray, runtime: Runtime) -> bool:
        """Take what has arrived and answer each request that is complete. False: close the connection."""
        try:
            data = connection.recv(READ_BYTES)
            buffer += data
            while data and (request := take_request(buffer, connection.sendall)):
                method, path, body, is_last = request
                connection.sendall(response(*runtime.handle(method, path, body)))
                if is_last:
                    return False
                if runtime.takes_several and runtime.is_initialised:
                    return True  # the other server answers what else has come
        except (OSError, ValueError):  # gone, or no HTTP
            return False
        return bool(data) and not is_too_long(buffer)


def take_request(buffer: bytearray, send: object) -> tuple[bytes, bytes, bytes, bool] | None:
    """Cut the first request off what has arrived: method, path, body, whether the connection ends with it. None: not all there.

    Args:
        buffer: what has arrived; the request is removed from it.
        send: is called with an interim answer, where the client waits for one.

    Raises ValueError: it is no HTTP, or none that we serve.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(buffer[:end])
    method, path, version = head.partition(b"\r\n")[0].split(b" ")
    fields = head.lower()
    length = _number(fields, b"\r\ncontent-length:")
    if length > BODY_BYTES or b"\r\ntransfer-encoding:" in fields:
        raise ValueError(length)
    complete = end + 4 + length
    if len(buffer) < complete:
        if b"\r\nexpect: 100-continue" in fields and len(buffer) == end + 4:
            send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None
    body = bytes(memoryview(buffer)[end + 4 : complete])
    del buffer[:complete]
    return method, path, body, version == b"HTTP/1.0" or b"\r\nconnection: close" in fields


def is_too_long(buffer: bytearray) -> bool:
    """Tell whether what has arrived is a head that never ends."""
    return len(buffer) > HEAD_BYTES and b"\r\n\r\n" not in buffer


def response(status: int, body: bytes, further: bytes) -> bytes:
    """Put an answer together."""
    head = b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"
    return head % (status, REASONS[status].encode(), len(body), further) + body


def _number(fields: bytes, name: bytes) -> int:
    """Find a header's number; 0 when absent. Raises ValueError."""
    start = fields.find(name)
    if start < 0:
        return 0
    start += len(name)
    end = fields.find(b"\r\n", start)
    number = int(fields[start : end if end >= 0 else None])
    if number < 0:
        raise ValueError(number)
    return number
