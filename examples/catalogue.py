"""The example actions: the file of each, how it is deployed, a call of it, and what that must return."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openwhisk import ApiError

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Example:
    """An action of this directory, and a call of it.

    Attributes:
        file: below this directory; None for the binary, which is compiled first.
        kind, native, docker: as the options of `invokerctl action create`; one of them.
        memory_mib: limit; None is the site's default, the size that stem cells have.
        arguments: of the call.
        verify: says what is wrong with the result of that call, None when nothing is.
    """

    name: str
    file: str | None
    kind: str | None = None
    native: bool = False
    docker: str | None = None
    memory_mib: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    verify: Callable[[Mapping[str, Any]], str | None] = lambda _result: None


def _expect(key: str, value: Any) -> Callable[[Mapping[str, Any]], str | None]:
    return lambda result: None if result.get(key) == value else f"{key} is {result.get(key)}, not {value}"


def _verify_ball(result: Mapping[str, Any]) -> str | None:
    exact = math.pi ** (5 / 2) / math.gamma(5 / 2 + 1)
    off = abs(result.get("volume", math.inf) - exact) / (result.get("standard_error") or 1)
    return None if off < 5 else f"the volume {result.get('volume')} is {off:.1f} standard errors off {exact:.5f}"


def _verify_rings(result: Mapping[str, Any]) -> str | None:
    spacings = [ring["d_a"] for ring in result.get("rings", [])]
    return None if spacings[:2] == [3.1244, 2.7058] else f"the first rings of CeO2 are at {spacings[:2]}, not 3.1244 and 2.7058"


RESOLUTION = Example(
    name="resolution",
    file="python/resolution.py",
    kind="python:3",
    arguments={"energy_kev": 9.54, "distance_mm": 100, "radius_mm": 43},
    verify=_expect("d_a", 3.2224),
)
HIT_RATE = Example(
    name="hitrate",
    file="nodejs/hitrate.js",
    kind="nodejs:20",
    arguments={"frames": [{"hit": True, "n_peaks": 74}, {"hit": False, "n_peaks": 0}]},
    verify=_expect("hit_rate", 0.5),
)
RINGS = Example(name="rings", file="zip", kind="python:3", arguments={"calibrant": "CeO2"}, verify=_verify_rings)
BALL = Example(
    name="ball",
    file=None,
    native=True,
    memory_mib=192,  # of no stem cell's size: its first start is cold
    arguments={"dimension": 5, "samples": 2_000_000, "seed": 7},
    verify=_verify_ball,
)
CHECKSUM = Example(name="checksum", file="shell/checksum.sh", native=True)
WHO_AM_I = Example(name="whoami", file="python/whoami.py", kind="python:3", arguments={"mount": "/data"})
HIT_FINDER = Example(name="hitfinder", file="hitfinder/action.py", docker="invokerd/python3-science:latest", memory_mib=384)


def compile_c(source: Path, directory: Path) -> Path:
    """Compile the C example, statically where the compiler can; tcc cannot, and links to libc, which the image has.

    Returns:
        the executable, `directory`/exec.

    Raises:
        ApiError: no compiler, or it fails; says what to install.
    """
    wanted = os.environ.get("CC")
    compilers = [found for name in ([wanted] if wanted else ["cc", "gcc", "clang", "tcc"]) if (found := shutil.which(name))]
    if not compilers:
        raise ApiError("the C example needs a compiler: apt-get install tcc libc6-dev (11 MB; gcc will do, too)")
    said = ""
    for compiler in compilers:
        for static in (["-static"], []):
            command = [compiler, "-O2", "-std=c99", *static, "-o", str(directory / "exec"), str(source), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return directory / "exec"
            said = done.stderr.strip() or f"{compiler} ended with {done.returncode}"
    raise ApiError(f"{source.name} does not compile: {said}")
