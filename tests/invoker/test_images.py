"""Which images go when the engine's disk is nearly full, and which never do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from invoker.images import KEEP_S, ImageShelf
from pool.disk import Room
from pool.errors import EngineError

GIB = 1 << 30
ENOUGH = 10 * GIB


@dataclass
class Engine:
    """An image without a name is gone, which frees its bytes.

    Attributes:
        images: id -> bytes.
        names: reference -> id; somebody else's too.
    """

    images: dict[str, int]
    names: dict[str, str]
    free: int
    refuses: set[str] = field(default_factory=set)

    async def remove_image(self, image_id: str, reference: str) -> None:
        if image_id in self.refuses:
            raise EngineError("image is being used")
        assert self.names.pop(reference) == image_id
        if image_id not in self.names.values():
            self.free += self.images.pop(image_id)


@dataclass
class Node:
    file: Path
    engine: Engine
    used: set[str] = field(default_factory=set)
    forgotten: int = 0
    now_s: float = 1_000_000.0

    def shelf(self) -> ImageShelf:
        return ImageShelf(
            self.file,
            backend=self.engine,
            room=lambda: Room(self.engine.free, ENOUGH),
            in_use=lambda: self.used,
            on_removed=self.forget,
            wall_s=lambda: self.now_s,
        )

    def forget(self) -> None:
        self.forgotten += 1


@pytest.fixture
def node(tmp_path):
    """Four images, 6 GiB each, of which `alien` was pulled by somebody else."""
    ids = ("old", "mid", "new", "alien")
    names = {f"example/{image_id}:1": image_id for image_id in ids}
    return Node(tmp_path / "images.json", Engine(dict.fromkeys(ids, 6 * GIB), names, free=15 * GIB))


def pull_all(node: Node, shelf: ImageShelf) -> None:
    for image_id in ("old", "mid", "new"):
        shelf.pulled(f"example/{image_id}:1", image_id)
        node.now_s += 2 * KEEP_S


def test_health_tells_how_much_the_engines_disk_lacks_and_what_to_do(node):
    shelf = node.shelf()
    assert (shelf.check().name, shelf.check().ok) == ("engine-disk", True)
    node.engine.free = ENOUGH - 1
    assert not shelf.check().ok
    assert "10239 MiB free, less than 10240 MiB" in shelf.check().detail
    assert "docker system df" in shelf.check().detail


def test_an_engine_on_another_disk_than_ours_is_held_to_be_well(node):
    shelf = ImageShelf(
        node.file, backend=node.engine, room=lambda: None, in_use=lambda: node.used, on_removed=node.forget, wall_s=lambda: 0.0
    )
    assert shelf.check().ok


async def test_with_room_nothing_goes(node):
    shelf = node.shelf()
    pull_all(node, shelf)
    node.engine.free = 20 * GIB
    assert await shelf.sweep() == 0
    assert len(node.engine.images) == 4


async def test_the_longest_unused_go_until_there_is_room_and_no_further(node):
    shelf = node.shelf()
    pull_all(node, shelf)
    node.engine.free = 19 * GIB
    assert await shelf.sweep() == 2
    assert set(node.engine.images) == {"new", "alien"}
    assert node.forgotten == 2, "whoever remembers them would ask for what is gone"


async def test_what_is_used_what_was_just_used_and_what_is_not_ours_stay(node):
    shelf = node.shelf()
    pull_all(node, shelf)
    node.used = {"old"}
    node.engine.refuses = {"mid"}
    shelf.pulled("example/new:1", "new")
    assert await shelf.sweep() == 0
    assert len(node.engine.images) == 4
    # What is used no more counts from when it was last seen to be.
    node.used = set()
    node.engine.refuses = set()
    assert await shelf.sweep() == 1
    assert set(node.engine.images) == {"old", "new", "alien"}


async def test_an_image_that_somebody_else_has_under_another_name_stays_for_him(node):
    node.engine.names |= {"site/kept": "old", "example/mid:latest": "mid"}
    shelf = node.shelf()
    pull_all(node, shelf)
    shelf.pulled("example/mid:latest", "mid")
    node.now_s += 2 * KEEP_S
    await shelf.sweep()
    assert set(node.engine.images) == {"old", "alien"}, "the others had no names but those that were pulled"
    assert set(node.engine.names) == {"site/kept", "example/alien:1"}


async def test_a_restart_forgets_nothing_and_an_unreadable_file_removes_nothing(node, caplog):
    pull_all(node, node.shelf())
    again = node.shelf()
    node.engine.free = 19 * GIB
    assert await again.sweep() == 2
    assert await node.shelf().sweep() == 0, "what has gone was kept in the file"
    node.file.write_text("{broken")
    node.engine.free = 0
    assert await node.shelf().sweep() == 0
    assert "cannot be read" in caplog.text


async def test_a_disk_that_is_not_of_this_machine_is_not_judged(node):
    shelf = ImageShelf(
        node.file,
        backend=node.engine,
        room=lambda: None,
        in_use=set,
        on_removed=node.forget,
        wall_s=lambda: node.now_s,
    )
    pull_all(node, shelf)
    assert await shelf.sweep() == 0


async def test_a_state_directory_without_room_costs_no_call(node, caplog):
    node.file = node.file.parent / "no" / "such" / "directory"
    node.shelf().pulled("example/a:1", "a")
    assert "cannot be written" in caplog.text
