"""What documentation, docstrings and comments name is there: files, decisions, classes."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREES = ("bench", "docs", "examples", "invoker", "metrics", "pool", "runtimes", "scripts", "systemd", "tests")
#: Files of users, of examples in a text, and of other people's projects.
NOT_OURS = {"NAME.py", "OUT.svg", "b.py", "find.py", "hello.py", "helper.py", "queries_STORE.sql"}
FILE = re.compile(r"[\w./-]*\w\.(?:py|md|sql|service|socket|svg)\b(?![./]\w)")
#: Its second word begins with a capital again: a class of ours, or of a project whose file is named beside it.
CLASS = re.compile(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)(?:\.\w+)?(?:\(\))?`")

FILES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("*.toml"),
    *(path for tree in TREES for path in (ROOT / tree).rglob("*") if path.is_file()),
]
PAGES = [path for path in FILES if path.suffix == ".md"]
SOURCES = [path for path in FILES if path.suffix == ".py"]
#: Each file by its path from the top, and by every end of that path.
NAMES = {"/".join(parts[n:]) for path in FILES for parts in [path.relative_to(ROOT).parts] for n in range(len(parts))}


@functools.cache
def prose(path: Path) -> str:
    """A page, or the docstrings and comments of a module, without what is quoted from elsewhere."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        text = "\n".join(re.findall(r'"""(?s:.*?)"""|#.*', text))
    return re.sub(r"https?://\S+|socket\.socket", "", text)


def is_there(name: str, page: Path) -> bool:
    """Whether a file is named by its path from the top, from the page, or by the end of a path."""
    return name in NAMES or (page.parent / name).exists()


def files_in(path: Path) -> Iterator[str]:
    for found in FILE.findall(prose(path)):
        name = found.removeprefix("./").lstrip("/")
        if Path(name).name not in NOT_OURS and not found.startswith(("/", "-", ".", "~")):
            yield name


@pytest.mark.parametrize("paths", [PAGES, SOURCES], ids=["pages", "sources"])
def test_files_and_decisions_that_are_named_exist(paths: list[Path]):
    numbers = {path.name[:4] for path in (ROOT / "docs/decisions").glob("*.md")}
    missing = []
    for path in paths:
        missing += [(path, name) for name in files_in(path) if not is_there(name, path)]
        missing += [(path, number) for number in re.findall(r"decisions/(\d{4})", prose(path)) if number not in numbers]
    assert missing == []


def test_what_is_looked_for_would_be_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("See `no_such.py`, `pool/pool.py`, [this](pool.md), http://example.org/x.py.")
    assert list(files_in(page)) == ["no_such.py", "pool/pool.py", "pool.md"]
    assert [name for name in files_in(page) if not is_there(name, page)] == ["no_such.py", "pool.md"]


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_classes_that_a_page_names_are_in_the_sources():
    words = {word for path in SOURCES for word in re.findall(r"\w+", path.read_text("utf-8"))}
    for page in PAGES:
        assert set(CLASS.findall(page.read_text("utf-8"))) <= words, page.relative_to(ROOT)
