"""What `invokerctl action create` sends: a file or a directory turned into the API's `exec`, options into parameters."""

from __future__ import annotations

import base64
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

from invoker.commands.ctl_client import Exit, Failure

#: What clients of OpenWhisk name for `--native`; the daemon maps it to its own black-box runtime.
NATIVE_IMAGE = "openwhisk/dockerskeleton"
_KINDS = {".py": "python:default", ".js": "nodejs:default", ".mjs": "nodejs:default", ".cjs": "nodejs:default"}
#: The earliest moment a zip can hold: the same files make the same archive, whenever they are packed.
_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


def make_exec(file: Path | None, *, kind: str | None, native: bool, docker: str | None, main: str | None) -> dict[str, Any]:
    """Build an action's `exec`.

    A directory is zipped. A native file that is no text is zipped as `exec`, the name a black box starts.

    Args:
        file: source text, zip, executable or directory; None for an image that brings its code.
        kind: runtime, such as `python:3`; None goes by the file's extension.
        native: run it in the site's black-box runtime.
        docker: run it in this image.
        main: entry point.

    Raises:
        Failure: the combination makes no sense, or the file cannot be read.
    """
    if sum((bool(kind), native, bool(docker))) > 1:
        raise Failure("--kind, --native and --docker exclude each other", Exit.USAGE)
    if file is None and not docker:
        raise Failure("a file is missing", Exit.USAGE, "only an action with --docker can do without")
    made: dict[str, Any] = {"main": main} if main else {}
    if native or docker:
        made |= {"kind": "blackbox", "image": docker or NATIVE_IMAGE}
    else:
        made["kind"] = kind or _kind_of(file)
    if file is not None:
        made["code"] = _read_code(file, blackbox=native or bool(docker))
    return made


def _kind_of(file: Path | None) -> str:
    suffix = file.suffix if file else ""
    if suffix not in _KINDS:
        raise Failure(
            f"the kind of {file} cannot be told from its name",
            Exit.USAGE,
            "give --kind python:3 or nodejs:20; --native for an executable; --docker IMAGE",
        )
    return _KINDS[suffix]


def _read_code(file: Path, *, blackbox: bool) -> str:
    try:
        if file.is_dir():
            return base64.b64encode(zip_directory(file)).decode()
        content = file.read_bytes()
    except OSError as error:
        raise Failure(f"{error.filename or file}: {error.strerror}", Exit.USAGE) from error
    if content.startswith(b"PK\x03\x04"):
        return base64.b64encode(content).decode()
    try:
        if b"\0" not in content:
            return content.decode()
    except UnicodeDecodeError:
        pass
    if not blackbox:
        raise Failure(f"{file} is neither text in UTF-8 nor a zip", Exit.USAGE, "an executable needs --native or --docker IMAGE")
    return base64.b64encode(_zip_entries([("exec", content, 0o755)])).decode()


def zip_directory(directory: Path) -> bytes:
    """Pack a directory, its files' modes included; files and names that begin with a dot and caches are left out."""
    entries = []
    for parent, directories, files in os.walk(directory, followlinks=False):
        directories[:] = sorted(name for name in directories if not name.startswith(".") and name != "__pycache__")
        for name in sorted(files):
            path = Path(parent, name)
            if not name.startswith("."):
                entries.append((str(path.relative_to(directory)), path.read_bytes(), path.stat().st_mode & 0o777))
    return _zip_entries(entries)


def _zip_entries(entries: list[tuple[str, bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name, _ZIP_EPOCH)
            info.external_attr = (0o100000 | mode) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return buffer.getvalue()


def make_parameters(pairs: tuple[tuple[str, str], ...], file: Path | None) -> dict[str, Any]:
    """Merge a JSON file and `--param` pairs, which go before it. A value that is JSON is that, any other is text.

    Raises:
        Failure: the file holds no JSON object.
    """
    values = {} if file is None else read_json_object(file)
    return values | {name: _value(text) for name, text in pairs}


def read_json_object(file: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        Failure: it does not, or cannot be read.
    """
    try:
        value = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}", Exit.USAGE) from error
    except ValueError as error:
        raise Failure(f"{file} is no JSON: {error}", Exit.USAGE) from error
    if not isinstance(value, dict):
        raise Failure(f"{file} must hold a JSON object", Exit.USAGE)
    return value


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def action_path(name: str) -> str:
    """Build the path of an action: `name`, `package/name`, or `/namespace/[package/]name`.

    Raises:
        Failure: it has too many or too few parts.
    """
    if name.startswith("/"):
        namespace, *rest = name[1:].split("/")
    else:
        namespace, rest = "_", name.split("/")
    if not 1 <= len(rest) <= 2 or not all((namespace, *rest)):
        raise Failure(f"{name!r} is no name of an action", Exit.USAGE, "write NAME, PACKAGE/NAME or /NAMESPACE/[PACKAGE/]NAME")
    return f"/api/v1/namespaces/{quote(namespace, safe='')}/actions/" + "/".join(quote(part, safe="") for part in rest)


def make_sequence(components: str) -> dict[str, Any]:
    """Build the `exec` of a sequence from names with commas between them; names without a namespace are one's own.

    Raises:
        Failure: there is no name, or an empty one.
    """
    names = [name.strip() for name in components.split(",")]
    if not all(names):
        raise Failure(f"--sequence {components!r} has an empty name", Exit.USAGE, "write A,PACKAGE/B,/NAMESPACE/PACKAGE/C")
    return {"kind": "sequence", "components": [name if name.startswith("/") else f"/_/{name}" for name in names]}


#: What `--web` may be: each word of `wsk`, and what it means.
WEB_WORDS = {"yes": "yes", "true": "yes", "raw": "raw", "no": "no", "false": "no"}


def url_of(host: str, document: dict[str, Any]) -> str:
    """Tell where an action is reached: the plain URL of a web action, else that of the API, which wants a key.

    Args:
        host: address of the API, with its scheme.
        document: the action, as the API shows it.
    """
    namespace, _, package = document["namespace"].partition("/")
    name = quote(document["name"], safe="")
    if any(each["key"] == "web-export" and each["value"] is True for each in document.get("annotations", ())):
        return f"{host}/api/v1/web/{quote(namespace, safe='')}/{quote(package or 'default', safe='')}/{name}"
    inner = f"{quote(package, safe='')}/{name}" if package else name
    return f"{host}/api/v1/namespaces/{quote(namespace, safe='')}/actions/{inner}"


def web_annotations(web: str | None, secure: str | None) -> dict[str, Any]:
    """Annotations that make a web action, as `wsk` sets them.

    Args:
        web: `yes`, `raw` (query and body come unparsed), or `no`, or another of `WEB_WORDS`; None leaves all as it is.
        secure: what callers must send in `X-Require-Whisk-Auth`; None leaves it as it is.
    """
    annotations: dict[str, Any] = {}
    if web is not None:
        meant = WEB_WORDS[web]
        annotations = {"web-export": meant != "no", "raw-http": meant == "raw", "final": meant != "no"}
    return annotations if secure is None else annotations | {"require-whisk-auth": secure}
