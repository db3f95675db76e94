"""The pool's books of memory against the kernel's: what is reserved, what is limited, and what is really held.

Everything the kernel tells is read below the parent cgroup that the pool was given, so that nothing of another pool is counted.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pool.cgroup import mount_points
from pool.parent import limit_bytes

MIB = 1 << 20
#: How far sums of the two may differ (requirement of the site: 5 %).
TOLERANCE = 0.05
#: Beyond that, MiB: the kernel counts in batches of pages on each core, and the two are not read at the same instant.
SLACK_MIB = 2
#: Between two looks these may come and go without anybody being wrong.
IN_FLUX = {"starting", "adopting", "removing", "suspect"}
#: `pool.frozen_margin_mib` at its default.
FROZEN_MARGIN_MIB = 16
_ENGINE_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Account:
    """What the kernel has accounted to one cgroup, with all below it.

    Attributes:
        limit_mib: what it may have at most.
        held_mib: what cannot be taken back from it: anonymous and shared memory.
    """

    limit_mib: float
    held_mib: float


class KernelAccounts:
    """The memory accounts of the containers below a parent cgroup, and its own; cgroup version 1 or 2."""

    def __init__(self, parent: str, *, mountinfo: Path = Path("/proc/self/mountinfo")) -> None:
        """Find it; it must have been made.

        Args:
            parent: `pool.cgroup_parent`.
            mountinfo: which hierarchies are mounted where.
        """
        hierarchies = list(mount_points(mountinfo.read_text()))
        limited = [point for version, point, controllers in hierarchies if version == 1 and "memory" in controllers]
        self._v1 = bool(limited)
        root = limited[0] if limited else next(point for version, point, _ in hierarchies if version == 2)
        names = (root / parent, root / f"{parent}.slice")  # as the engine's driver has it: cgroupfs or systemd
        self.directory = next(name for name in names if name.is_dir())

    def of_parent(self) -> Account:
        """Read the account of all of them."""
        return self._read(self.directory)

    def of_containers(self) -> dict[str, Account]:
        """Read the account of each container, by the engine's id; without those that go meanwhile."""
        accounts = {}
        for directory, _, _ in os.walk(self.directory):  # which takes it that some are removed meanwhile
            if found := _ENGINE_ID.search(Path(directory).name):
                try:
                    accounts[found[0]] = self._read(Path(directory))
                except OSError:
                    continue
        return accounts

    def _read(self, directory: Path) -> Account:
        pairs = (line.split() for line in (directory / "memory.stat").read_text().splitlines())
        counted = {name: int(value) for name, value in pairs}
        limit = (directory / ("memory.limit_in_bytes" if self._v1 else "memory.max")).read_text().strip()
        held = counted["total_rss"] + counted["total_shmem"] if self._v1 else counted["anon"] + counted["shmem"]
        return Account(float("inf") if limit == "max" else int(limit) / MIB, held / MIB)


@dataclass
class Comparison:
    """What many looks at both books have shown.

    Attributes:
        ratios: at each look, what the pool has reserved for its containers over what the kernel says they are bound to.
        compared: containers, over all looks.
        shrunk: those of them for which only what they hold was reserved.
        wrong: a sentence for each disagreement.
    """

    ratios: list[float] = field(default_factory=list)
    compared: int = 0
    shrunk: int = 0
    wrong: list[str] = field(default_factory=list)

    def look(self, before: Any, listed: Sequence[Any], accounts: Mapping[str, Account], parent: Account, after: Any) -> None:
        """Compare the pool's listings of just before and just after with what engine and kernel said between them.

        A container that was not the same in both listings is left out: nobody can say what was true at which instant.

        Args:
            before: `invokerctl pool --json`.
            listed: the engine's containers of this node.
            accounts: the kernel's, by the engine's id.
            parent: the kernel's, of all of them together.
            after: as `before`.
        """
        for told in (before, after):
            self._check_sums(told)
        if parent.limit_mib != limit_bytes(before["memory_budget_mib"]) / MIB:
            self.wrong.append(f"the kernel limits all of them to {parent.limit_mib:g} MiB")
        if parent.held_mib > before["memory_budget_mib"]:
            self.wrong.append(f"they hold {parent.held_mib:.1f} MiB, more than the budget")
        reserved = bound = 0.0
        ids = {each["Names"][0].removeprefix("/"): each for each in listed if each["Names"]}
        later = {row["container"]: row for row in after["containers"]}
        for row in before["containers"]:
            again = later.get(row["container"], {})
            same = all(row[key] == again.get(key) for key in ("state", "memory_mib", "action"))
            if not same or row["state"] in IN_FLUX or row["container"] not in ids:
                continue
            entry = ids[row["container"]]
            account = accounts.get(entry["Id"])
            if account is None:
                self.wrong.append(f"{row['container']}, {row['state']}, has no cgroup below the parent")
                continue
            reserved += row["memory_mib"]
            bound += self._bound(row, json.loads(entry["Labels"]["invokerd.spec"])["memory_mib"], account)
        if bound:
            self.ratios.append(reserved / bound)
            if abs(reserved - bound) > TOLERANCE * bound + SLACK_MIB:
                self.wrong.append(f"{reserved:g} MiB are reserved where the kernel says {bound:.1f} MiB")

    def _check_sums(self, told: Any) -> None:
        used, budget = told["memory_used_mib"], told["memory_budget_mib"]
        if used > budget:
            self.wrong.append(f"{used} MiB are reserved of {budget} MiB")
        if used != sum(row["memory_mib"] for row in told["containers"]):
            self.wrong.append(f"{used} MiB are reserved, and not the sum over the containers")

    def _bound(self, row: Any, declared_mib: int, account: Account) -> float:
        """Tell what the kernel lets this container have, MiB: its limit or, where less is reserved, what it holds, frozen."""
        self.compared += 1
        if account.held_mib > row["memory_mib"] + SLACK_MIB:
            self.wrong.append(f"{row['container']} holds {account.held_mib:.1f} MiB of {row['memory_mib']} MiB reserved")
        if row["memory_mib"] == declared_mib:
            return account.limit_mib
        self.shrunk += 1
        if row["state"] not in {"frozen", "stem_frozen"}:
            self.wrong.append(f"{row['container']}, {row['state']}, has less reserved than its limit")
        return account.held_mib + FROZEN_MARGIN_MIB
