"""What is made of the text that the checks printed: a page in Markdown.

usage: report.py CHECKS STARTED COMMIT DEBIAN; exits with 0 when all of it passed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def report(checks_file: str, started: str, commit: str, debian: str) -> int:
    """Print the page about a run; 0 when all of it passed."""
    text = Path(checks_file).read_text(errors="replace").replace("\r", "")
    checks = re.findall(r"CHECK (\S+) (ok|FAILED) (.*)$", text, re.MULTILINE)
    ended = "PROBE ENDED" in text
    failed = [name for name, result, _ in checks if result != "ok"]
    times = re.findall(r"TIME (\S+) (\d+ s)$", text, re.MULTILINE)
    passed = ended and bool(checks) and not failed
    verdict = f"All {len(checks)} checks passed." if passed else f"Failed: {', '.join(failed) or 'it did not come to its end'}."
    print("# Last run on cgroup v2 with systemd\n")
    command = "scripts/vm-test" if debian == "12" else f"scripts/vm-test --debian {debian}"
    print(f"`{command}`, {started}, commit {commit}: an emulated Debian {debian} (qemu, no KVM).\n")
    print(f"{verdict} Times say nothing here: an emulated machine is some twenty times slower.\n")
    print("| check | result | what was seen |\n|---|---|---|")
    for name, result, seen in checks:
        print(f"| {name} | {result} | {seen.replace('|', '/')} |")
    print("\nSections: " + ", ".join(f"{name} {seconds}" for name, seconds in times) + ".")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(report(*sys.argv[1:]))
