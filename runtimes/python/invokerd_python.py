"""The runtime of kind `python:3`: a module, a zip or a tar.gz with `__main__.py`, called in this very process."""

from __future__ import annotations

import os
import sys

from invokerd_runtime import Refused, Runtime, Server

#: Name of the action's module, as upstream's: its `if __name__ == "__main__"` stays quiet.
MODULE = "exec__"
#: What most actions import, and what we need for archives and tracebacks; a stem cell has it all before it is frozen.
LIKELY = (
    "base64",
    "collections",
    "importlib.util",
    "linecache",
    "logging",
    "re",
    "shutil",
    "subprocess",
    "tempfile",
    "threading",
)
LIKELY += ("traceback", "zipfile", "invokerd_unpack")
NO_BINARY = "The action failed to generate or locate a binary. See logs for details."
NOT_STARTED = "Cannot start action. Check logs for details."
NOT_AN_OBJECT = "The action did not return a dictionary or array."
#: Encodes results, once `json` has come in.
_plain_json = None


class PythonRuntime(Runtime):
    """Loads a Python action and calls its entry point."""

    def __init__(self) -> None:
        super().__init__()
        self._main = None
        self._flush_c = None  # libc's fflush, once there is C code that may print
        self._known_modules = 0
        self._loop = None  # of coroutines that are run one at a time, once there is one
        #: The daemon may send several activations at a time to code that can run them.
        self._may_take_several = os.environ.get("__OW_ALLOW_CONCURRENT") == "true"
        if self._may_take_several:
            import invokerd_together

            self._together = invokerd_together
            self.log.hear(invokerd_together.current, invokerd_together.later)

    def initialise(self, value: dict[str, object]) -> None:
        """Load the code: inline, archived, or a directory that the daemon has mounted."""
        code, directory = value.get("code"), value.get("code_path")
        main = value.get("main") or "main"
        if not isinstance(main, str) or not (directory or (isinstance(code, str) and code)):
            raise Refused(403, "Missing main/no code to execute.")
        if value.get("binary") and not directory:
            directory = _unpacked(code)
        try:
            module = _load_directory(directory) if directory else _load_source(code)
            self._main = _entry_point(module, main)
        except Refused:
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit too: the code is not fit to run
            _print_exception(error)
            raise Refused(502, f"{NOT_STARTED} {type(error).__name__}: {error}") from None
        self.takes_several = self._may_take_several and _is_coroutine_function(self._main)
        self._look_for_c_code()

    def run(self, argument: dict[str, object] | list[object]) -> bytes:
        """Call the action, and wait for the result of a coroutine. What it raises becomes an application error, as upstream."""
        if self._main is None:
            raise Refused(500, "no action defined yet")
        try:
            result = self._main(argument)
            if hasattr(result, "__await__"):
                result = self._wait_for(result)
        except BaseException as error:  # noqa: BLE001 - anything
            result = self._failed(error)
        return self._finish(result)

    async def run_beside_others(self, argument: dict[str, object] | list[object]) -> bytes:
        """Call an action that is a coroutine function, in the running loop."""
        try:
            result = await self._main(argument)
        except BaseException as error:  # noqa: BLE001 - anything; a task that lets SystemExit through would end them all
            result = self._failed(error)
        return self._finish(result)

    def serve_together(self, listener: object, connections: object) -> None:
        """Serve an action that runs several times side by side."""
        self._together.serve(self, listener, connections)

    def _wait_for(self, awaitable: object) -> object:
        """Run a coroutine to its end, always in the same loop: what it keeps between calls belongs to that."""
        import asyncio

        async def wait() -> object:
            return await awaitable

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop.run_until_complete(wait())

    def _failed(self, error: BaseException) -> dict[str, str]:
        """Turn what an action raised into its result. Raises Refused for sys.exit() and its kin."""
        if isinstance(error, Exception):
            _print_exception(error)
            return {"error": str(error)}
        self.leave_if_forked()
        _print_exception(error)
        raise Refused(400, f"command exited: {type(error).__name__}: {error}") from None

    def _finish(self, result: object) -> bytes:
        if len(sys.modules) != self._known_modules:
            self._look_for_c_code()
        if self._flush_c:
            self._flush_c(None)
        return _encode(result)

    def exercise(self) -> None:
        """Import what actions and we ourselves are likely to need, and run an action that leaves nothing behind."""
        import importlib
        import json

        for name in LIKELY:
            importlib.import_module(name)
        if not self.is_initialised:
            main = _entry_point(_load_source("def main(args):\n    return {'ok': [1, 2.5, 'ä', None, args]}\n"), "main")
            json.loads(_encode(main({"key": "value"})))
            del sys.modules[MODULE]

    def _look_for_c_code(self) -> None:
        """Find fflush once an extension module has come in: libc keeps what C code prints until its buffer is full."""
        self._known_modules = len(sys.modules)
        if self._flush_c is None:
            for name, module in list(sys.modules.items()):
                path = getattr(module, "__file__", None) or ""
                if name == "ctypes" or (path.endswith(".so") and "lib-dynload" not in path):
                    import ctypes

                    self._flush_c = ctypes.CDLL(None).fflush
                    return


def _load_source(code: str) -> object:
    """Execute inline code as a module."""
    import linecache

    module = type(sys)(MODULE)
    module.__file__ = f"{MODULE}.py"
    linecache.cache[module.__file__] = (lambda: code,)  # so that tracebacks show the lines
    sys.modules[MODULE] = module  # pickle looks there
    exec(compile(code, module.__file__, "exec"), module.__dict__)  # noqa: S102 - it is what we are for
    return module


def _load_directory(directory: str) -> object:
    """Import `__main__.py` of an unpacked archive, with its `virtualenv` if it brings one."""
    import importlib.util

    path = os.path.join(directory, "__main__.py")
    if not os.path.isfile(path):
        sys.stderr.write("The archive has no __main__.py at its top.\n")
        raise Refused(502, NO_BINARY)
    os.chdir(directory)
    sys.path.insert(0, directory)
    environment = os.path.join(directory, "virtualenv")
    if os.path.isdir(environment):
        import glob
        import site

        before = len(sys.path)
        for packages in glob.glob(os.path.join(environment, "lib", "python3*", "site-packages")):
            site.addsitedir(packages)  # not only appended: .pth files count
        sys.path[1:1] = [sys.path.pop() for _ in range(len(sys.path) - before)][::-1]
        os.environ["VIRTUAL_ENV"] = environment
    spec = importlib.util.spec_from_file_location(MODULE, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    return module


def _entry_point(module: object, name: str) -> object:
    function = getattr(module, name, None)
    if not callable(function):
        sys.stderr.write(f"The code defines no function {name!r}, which is to be the action's entry point.\n")
        raise Refused(502, f"{NOT_STARTED} The code defines no function {name!r}.")
    return function


def _is_coroutine_function(function: object) -> bool:
    """Tell whether it is an `async def`: what `inspect` would say, which takes 10 ms to import."""
    code = getattr(function, "__code__", None)
    return bool(getattr(code, "co_flags", 0) & 0x80)


def _unpacked(code: str) -> str:
    """Unpack a base64 archive; returns its directory."""
    import invokerd_unpack

    try:
        return invokerd_unpack.unpack_archive(invokerd_unpack.decode(code))
    except invokerd_unpack.NotAnArchive as error:
        sys.stderr.write(f"{error}\n")
        raise Refused(502, NO_BINARY) from None


def _encode(result: object) -> bytes:
    """Encode a result as JSON. Raises Refused for what is no object nor array, or cannot be JSON."""
    import json

    global _plain_json
    if not isinstance(result, (dict, list, tuple)):
        raise Refused(502, NOT_AN_OBJECT)
    if _plain_json is None:
        _plain_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    try:
        text = _plain_json(result)
    except (TypeError, ValueError, RecursionError) as error:
        raise Refused(502, f"{NOT_AN_OBJECT} It cannot be JSON: {error}") from None
    try:
        return text.encode()
    except UnicodeEncodeError:  # lone surrogates: JSON can carry them only escaped
        return json.dumps(result).encode()


def _print_exception(error: BaseException) -> None:
    """Print a traceback without our own frames, nor those of the import that we began."""
    import traceback

    frames = error.__traceback__
    while frames and frames.tb_frame.f_code.co_filename.startswith((__file__, "<frozen importlib")):
        frames = frames.tb_next
    traceback.print_exception(type(error), error, frames)


def main() -> None:
    """Serve until killed."""
    server = Server()
    server.serve_forever(PythonRuntime())
