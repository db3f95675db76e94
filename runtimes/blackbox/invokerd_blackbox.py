"""The runtime of black boxes: anything that can be executed, from a start script to a large binary.

The program gets its argument as JSON on standard input, and as its first argument where that is short enough. The
last line of its standard output is the result; the lines before it, and standard error, are its log.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys

from invokerd_runtime import FramedLog, PlainLog, Refused, Runtime, Server

#: Where an image of one's own keeps its program.
BAKED = "/action/exec"
#: Longest first argument: the kernel's MAX_ARG_STRLEN without the final NUL.
ARGUMENT_BYTES = 131071
NO_BINARY = "The action failed to generate or locate a binary. See logs for details."
NOT_AN_OBJECT = "The action did not return a dictionary or array."


class BlackBoxRuntime(Runtime):
    """Keeps a program and executes it once per activation."""

    def __init__(self) -> None:
        super().__init__()
        self._program = BAKED

    def initialise(self, value: dict[str, object]) -> None:
        """Lay out the program: one file, `exec` in an archive or in a mounted directory, or what the image brings."""
        code, directory = value.get("code"), value.get("code_path")
        if directory:
            self._program = os.path.join(str(directory), "exec")
        elif isinstance(code, str) and code:
            self._program = _lay_out(code, is_base64=bool(value.get("binary")))
        if not os.path.isfile(self._program):
            raise _no_binary("There is no file named 'exec' at the top of the action's code.")
        if not os.access(self._program, os.X_OK):
            try:
                os.chmod(self._program, 0o755)
            except OSError as error:
                raise _no_binary(f"The action's 'exec' is not executable: {error}") from None
        os.chdir(os.path.dirname(self._program))

    def run(self, argument: dict[str, object] | list[object]) -> bytes:
        """Execute the program. Raises Refused when its last line is no JSON object nor array."""
        import json

        if not os.path.isfile(self._program):
            raise _no_binary(f"There is no {self._program}, and the action came without code.")
        text = json.dumps(argument)
        try:
            last_line, status = self._execute([text] if len(text) <= ARGUMENT_BYTES else [], text.encode())
        except OSError as error:
            sys.stderr.write(f"The action's program cannot be started: {error}\n")
            raise Refused(502, f"{NOT_AN_OBJECT} Its program cannot be started: {error.strerror}.") from None
        try:
            is_fit = isinstance(json.loads(last_line), (dict, list))
        except (ValueError, RecursionError):
            is_fit = False
        if not is_fit:
            self.log.write("o", [last_line] if last_line else [])
            reason = f"ended with {_tell(status)}" if status else "gave no JSON object or array as its last line of output"
            sys.stderr.write(f"The action's program {reason}.\n")
            raise Refused(502, NOT_AN_OBJECT)
        return last_line

    def exercise(self) -> None:
        """Import and spawn once, without trace."""
        import json  # noqa: F401

        import invokerd_unpack  # noqa: F401

        if not self.is_initialised:
            program, self._program = self._program, "/bin/true"
            self._execute(["{}"], b"{}")
            self._program = program

    def _execute(self, arguments: list[str], stdin: bytes) -> tuple[bytes, int]:
        """Run the program to its end, its lines streaming to the log. Returns the last line, and the exit code.

        What it leaves running in the background is not waited for. Raises OSError when it cannot be started.
        """
        pid, to_child, reader = _spawn(self._program, arguments)
        ended = os.pidfd_open(pid)
        os.set_blocking(to_child, False)
        os.set_blocking(reader, False)
        lines = LineHolder(self.log)
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        poll.register(ended, select.POLLIN)
        poll.register(to_child, select.POLLOUT)
        rest = memoryview(stdin + b"\n")  # the newline is for `read` of the shells
        is_running = is_open = True
        while is_running:
            events = poll.poll(lines.patience_ms())
            if not events:
                lines.tell_unfinished()
            for fd, _ in events:
                if fd == ended:
                    is_running = False
                elif fd == reader:
                    is_open = lines.read(reader)
                    if not is_open:
                        poll.unregister(reader)
                else:
                    try:
                        rest = rest[os.write(to_child, rest) :]
                    except OSError:  # it does not care for all of its input
                        rest = rest[:0]
                    if not rest:
                        poll.unregister(to_child)
                        os.close(to_child)
        if rest:
            os.close(to_child)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.close(ended)
        if is_open and lines.read(reader):  # the pipe holds no more than one read, and what is in it was said before the end
            self.log.watch(reader, "o")  # somebody in the background still has it open
        else:
            os.close(reader)
        return lines.close(), status


class LineHolder:
    """Passes lines on to the log as they come, but for the last one that is not blank, where it may be the result.

    The last line of a program that is killed, or that works on for long, is often the one that tells why.
    """

    def __init__(self, log: FramedLog | PlainLog) -> None:
        self._log = log
        self._held: list[bytes] = []  # the last line that is not blank, unless it was passed on, and blank ones after it
        self._pieces: list[bytes] = []  # of a line whose newline has not come yet
        self._is_told = True  # what is held back is in the log as it is so far

    def read(self, fd: int) -> bool:
        """Take what is there. False at the end of the stream."""
        try:
            data = os.read(fd, FramedLog.PIPE_BYTES)
        except BlockingIOError:
            return True
        self._is_told = False
        first, newline, after = data.partition(b"\n")
        if not newline:
            self._pieces.append(data)
            return bool(data)
        *complete, rest = after.split(b"\n")
        self._hold([b"".join([*self._pieces, first]), *complete])
        self._pieces = [rest]
        return True

    def patience_ms(self) -> float | None:
        """Tell for how long to wait for more before `tell_unfinished`; None where there is nothing to tell."""
        return None if self._is_told else FramedLog.UNFINISHED_S * 1000

    def tell_unfinished(self) -> None:
        """Have the log know what is held back, for the case that no more comes."""
        self._is_told = True
        begun = b"".join(self._pieces)
        if begun.strip():  # it will be the last line that is not blank, so what is held is no result
            self._log.write("o", self._held)
            self._held = []
            self._log.tell_unfinished("o", begun)
        elif self._held:
            self._log.tell_unfinished("o", self._held[0].strip())

    def close(self) -> bytes:
        """Return the last line that is not blank, without the blanks around it; empty where it cannot be a result."""
        self._hold([b"".join(self._pieces)])
        return self._held[0].strip() if self._held else b""

    def _hold(self, lines: list[bytes]) -> None:
        last = next((index for index in reversed(range(len(lines))) if lines[index].strip()), None)
        if last is None:
            self._held += lines
        else:
            keep = last if lines[last].lstrip()[:1] in (b"{", b"[") else last + 1
            self._log.write("o", self._held + lines[:keep])
            self._held = lines[keep:]


def _spawn(program: str, arguments: list[str]) -> tuple[int, int, int]:
    """Start a program. Returns its pid, the write end of its standard input, and the read end of its standard output.

    By posix_spawn, which shares our memory until the exec: no page table of a large process is copied.
    """
    stdin, to_child = os.pipe()
    reader, stdout = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
    # Python ignores them, and an ignored signal stays ignored over an exec.
    default = [signal.SIGPIPE, signal.SIGXFSZ]
    try:
        try:
            pid = os.posix_spawn(program, [program, *arguments], os.environ, file_actions=actions, setsigdef=default)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise
            # A script without `#!`: do as every shell does.
            shell = ["/bin/sh", program, *arguments]
            pid = os.posix_spawn(shell[0], shell, os.environ, file_actions=actions, setsigdef=default)
    except OSError:
        os.close(to_child)
        os.close(reader)
        raise
    finally:
        os.close(stdin)
        os.close(stdout)
    return pid, to_child, reader


def _lay_out(code: str, *, is_base64: bool) -> str:
    """Write the code to disk; returns the path where `exec` should be. Raises Refused."""
    import invokerd_unpack

    data = invokerd_unpack.decode(code) if is_base64 else code.encode()
    if is_base64 and data[:2] in (b"PK", b"\x1f\x8b"):
        try:
            return os.path.join(invokerd_unpack.unpack_archive(data), "exec")
        except invokerd_unpack.NotAnArchive as error:
            raise _no_binary(str(error)) from None
    program = os.path.join(invokerd_unpack.new_directory(), "exec")
    with open(os.open(program, os.O_WRONLY | os.O_CREAT, 0o755), "wb") as file:
        file.write(data)
    return program


def _no_binary(reason: str) -> Refused:
    sys.stderr.write(f"{reason}\n")
    return Refused(502, NO_BINARY)


def _tell(status: int) -> str:
    return f"exit code {status}" if status > 0 else f"signal {-status}"


def main() -> None:
    """Serve until killed."""
    server = Server()
    server.serve_forever(BlackBoxRuntime())
