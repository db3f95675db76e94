"""How `invokerctl` prints: rich tables on a terminal, plain columns into a pipe, JSON where it is asked for."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from invoker.commands.ctl_client import Exit, Failure

if TYPE_CHECKING:
    from rich.console import JustifyMethod
    from rich.table import Table

#: Columns that are copied into the next command: never folded, however narrow the terminal.
_WHOLE = ("ACTIVATION", "CONTAINER")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def print_json(value: Any) -> None:
    """Print a value as JSON: indented for a person, on one line for a pipe; escaped where the terminal lacks the characters."""
    indent = 2 if sys.stdout.isatty() else None
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False)
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # half a surrogate pair is JSON, too
        text = json.dumps(value, indent=indent)
    click.echo(text)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Tell who waits at a terminal what goes on, on one line that each text replaces and the end of the block takes away."""

    def show(text: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[K{text}", nl=False, err=True)

    try:
        yield show
    finally:
        show("")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their columns. Columns whose name ends with `>` are set right."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(rich_table(columns, rows))
    else:
        click.echo(plain_table(columns, rows), nl=False)


def rich_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Make a table for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        justify: JustifyMethod = "right" if column.endswith(">") else "left"
        table.add_column(column.rstrip(">"), justify=justify, overflow="fold", no_wrap=column in _WHOLE)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table


def plain_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Make columns of plain text, two blanks apart, for awk and grep; the header is always there."""
    cells = [[column.rstrip(">") for column in columns], *([str(cell) or "-" for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    lines = []
    for line in cells:
        padded = [
            cell.rjust(width) if column.endswith(">") else cell.ljust(width)
            for cell, width, column in zip(line, widths, columns, strict=True)
        ]
        lines.append("  ".join(padded).rstrip() + "\n")
    return "".join(lines)


def local_time(ms: int) -> str:
    """Write milliseconds since the epoch as local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000))


def span(seconds: float) -> str:
    """Write a span of time in its two largest units: `7s`, `3m05s`, `2h10m`, `4d03h`."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86_400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86_400}d{whole % 86_400 // 3600:02}h"


def parse_when(text: str, now_s: float) -> int:
    """Read a moment: `24h` or `7d` ago, `2026-11-01`, `2026-11-01T10:00` (local time, or with an offset), or milliseconds.

    Args:
        text: as the user wrote it.
        now_s: the present, seconds since the epoch.

    Returns:
        Milliseconds since the epoch.

    Raises:
        Failure: it is none of these (exit code 2).
    """
    ago = re.fullmatch(r"(\d+)([smhdw])", text)
    if ago:
        return round((now_s - int(ago[1]) * _UNITS_S[ago[2]]) * 1000)
    if text.isascii() and text.isdigit() and len(text) > 8:
        return int(text)
    from datetime import datetime

    try:
        # Without an offset this is local time, which is what a user means by a date.
        return round(datetime.fromisoformat(text).timestamp() * 1000)
    except ValueError:
        raise Failure(f"{text!r} is no moment", Exit.USAGE, "write 24h, 7d, 2026-11-01 or 2026-11-01T10:00") from None


def annotation_of(document: dict[str, Any], key: str) -> Any:
    """Find an annotation of a document as the API shows it; an empty text when it is absent."""
    return next((each["value"] for each in document.get("annotations", []) if each["key"] == key), "")
