#!/usr/bin/env python3
"""Write the frames of a serial crystallography run as HDF5, with the truth of what was planted in them.

Each frame is what a photon-counting detector of 153.6 mm edge sees 100 mm behind the sample at 1.3 Angstrom:

* Poisson noise over an expected background that falls off with the radius, with the ring of water at 3.2 Angstrom;
* for a share of the frames (the hit rate) a lysozyme crystal in random orientation: reflections near the Ewald sphere,
  intensities after Wilson (exponential), falling off with resolution, spots drawn out along the radius;
* gaps between modules, a beam stop, dead and hot pixels (all told by the mask), and single-pixel zingers (told by nobody).

Everything follows from the seed, frame by frame: frame 7 of seed 1 is the same whether 8 or 8000 frames are written.
The truth goes to `truth.json` beside the frames; an action has no business to read it.

Needs numpy and h5py; hdf5plugin for `--compression bitshuffle`.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

EXAMPLES = """examples:
  generate.py /srv/data/run0001                                 40 frames, half of them hits
  generate.py /srv/data/run0002 --frames 1000 --hit-rate 0.05 --seed 2
  generate.py /srv/data/run0003 --size 2048 --compression bitshuffle --frames-per-file 100
"""

#: Bits of the pixel mask, as NeXus (NXdetector, pixel_mask) numbers them; any bit set means: do not use.
GAP, DEAD, HOT, SHADOW = 1 << 0, 1 << 1, 1 << 4, 1 << 6
#: What the detector writes where it measured nothing; a pixel that counts so much is saturated.
NO_VALUE = np.iinfo(np.uint16).max

DETECTOR_EDGE_M = 0.1536
DISTANCE_M = 0.1
WAVELENGTH_A = 1.3
WATER_RING_A = 3.2
#: Hen egg-white lysozyme, tetragonal: a = b, c, Angstrom.
CELL_A = (79.1, 79.1, 37.9)
B_FACTOR_A2 = 18.0
#: Width of a reflection across the Ewald sphere, 1/Angstrom, standard deviation: mosaicity and bandwidth together.
EXCITATION_WIDTH = 4e-4
#: Half the edge of the square in which one spot is drawn, pixels.
SPOT_REACH = 6
#: A spot so close to a gap, the beam stop or the border, pixels, is marked `edge`: nobody is asked to find it.
EDGE_MARGIN = 4


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that the pixels of a run follow from.

    Attributes:
        frames: number of frames.
        seed: equal settings with an equal seed give equal pixels.
        hit_rate: share of frames with a crystal, 0 to 1.
        size: edge of the square detector, pixels; 1024 is the megapixel class.
        background: expected photons per pixel near the beam; falls to about a tenth at the edge.
        intensity: expected photons of an average, fully excited reflection at low resolution.
        compression: `gzip`, `bitshuffle` or `none`.
        frames_per_file: 1 writes a file per frame; more writes stacks.
    """

    frames: int = 40
    seed: int = 1
    hit_rate: float = 0.5
    size: int = 1024
    background: float = 30.0
    intensity: float = 1200.0
    compression: str = "gzip"
    frames_per_file: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            ValueError: with a sentence for the user.
        """
        if self.frames < 1 or self.frames_per_file < 1:
            raise ValueError("frames and frames per file must be at least 1")
        if not 0 <= self.hit_rate <= 1:
            raise ValueError("the hit rate is a share, from 0 to 1")
        if not 256 <= self.size <= 4096:
            raise ValueError("the size must be from 256 to 4096 pixels")
        if self.seed < 0 or not self.background > 0 or not self.intensity > 0:
            raise ValueError("the seed must not be negative; background and intensity must be above 0")
        if self.compression not in ("gzip", "bitshuffle", "none"):
            raise ValueError("compression is gzip, bitshuffle or none")

    @property
    def pixel_m(self) -> float:
        """Edge of a pixel, metres."""
        return DETECTOR_EDGE_M / self.size

    @property
    def beam_centre(self) -> tuple[float, float]:
        """Where the direct beam would hit, (fs, ss), pixels; a little off the middle, as in life."""
        return self.size / 2 + 3.4, self.size / 2 - 2.7


@dataclass(frozen=True, kw_only=True)
class Spots:
    """Reflections that strike the detector: arrays of equal length; positions (fs, ss) in pixels, intensity in photons."""

    fs: FloatArray
    ss: FloatArray
    intensity: FloatArray
    hkl: npt.NDArray[np.int64]


def radius_map(settings: Settings) -> FloatArray:
    """Distance of each pixel's centre from the beam, pixels, shape (size, size)."""
    axis = np.arange(settings.size, dtype=np.float64)
    fs, ss = settings.beam_centre
    return np.hypot(axis[None, :] - fs, axis[:, None] - ss)


def detector_mask(settings: Settings) -> npt.NDArray[np.uint8]:
    """Make the mask of the detector, shape (size, size), 0 for good pixels: four rows and two columns of modules.

    The same for all frames and all seeds: it is a property of the instrument.
    """
    size = settings.size
    mask = np.zeros((size, size), np.uint8)
    gap = max(size // 85, 4)
    for row in (size // 4, size // 2, 3 * size // 4):
        mask[row - gap // 2 : row + gap - gap // 2] = GAP
    mask[:, size // 2 - gap // 2 : size // 2 + gap - gap // 2] = GAP
    mask[radius_map(settings) < size / 45] |= SHADOW
    rng = np.random.default_rng([size, 0xBAD])
    for bit, share in ((DEAD, 2e-4), (HOT, 1e-4)):
        count = int(size * size * share)
        mask[rng.integers(size, size=count), rng.integers(size, size=count)] |= bit
    return mask


def near_edge(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Mark pixels within EDGE_MARGIN of a gap, the beam stop or the border, shape as `mask`."""
    blocked = np.pad((mask & (GAP | SHADOW)) != 0, EDGE_MARGIN, constant_values=True)
    near = np.zeros(mask.shape, np.bool_)
    for down in range(2 * EDGE_MARGIN + 1):
        for right in range(2 * EDGE_MARGIN + 1):
            near |= blocked[down : down + mask.shape[0], right : right + mask.shape[1]]
    return near


def expected_background(settings: Settings) -> FloatArray:
    """Compute expected photons per pixel without a crystal, shape (size, size)."""
    radius = radius_map(settings)
    edge = settings.size / 2
    ring = DISTANCE_M / settings.pixel_m * math.tan(2 * math.asin(WAVELENGTH_A / (2 * WATER_RING_A)))
    fall_off = 0.9 * np.exp(-radius / (0.35 * edge)) + 0.1
    water = 0.5 * np.exp(-0.5 * ((radius - ring) / (0.07 * edge)) ** 2)
    return np.asarray(settings.background * (fall_off + water), np.float64)


@functools.lru_cache(maxsize=2)
def reflections(resolution_a: float) -> tuple[npt.NDArray[np.int64], FloatArray, FloatArray]:
    """List the reflections of the crystal up to a resolution in Angstrom.

    Returns:
        (hkl of shape (n, 3); reciprocal vectors of shape (n, 3), 1/Angstrom; relative intensities of shape (n,)).
        The intensities follow Wilson's distribution for acentric reflections (Acta Cryst. 2, 318, 1949) times the
        Debye-Waller factor, and belong to the crystal: they are the same in every frame and run.
    """
    ranges = [np.arange(-int(edge / resolution_a), int(edge / resolution_a) + 1) for edge in CELL_A]
    hkl = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, 3)
    vectors = hkl / np.asarray(CELL_A)
    squared = (vectors**2).sum(axis=1)
    inside = (squared > 0) & (squared <= resolution_a**-2)
    hkl, vectors, squared = hkl[inside], vectors[inside], squared[inside]
    wilson = np.random.default_rng(0x193).exponential(size=len(hkl))
    return hkl, vectors, wilson * np.exp(-B_FACTOR_A2 * squared / 2)


def random_rotation(rng: np.random.Generator) -> FloatArray:
    """Draw a rotation, uniform over all orientations, shape (3, 3)."""
    w, x, y, z = (quaternion := rng.normal(size=4)) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def diffract(settings: Settings, rng: np.random.Generator) -> Spots:
    """Turn the crystal at random and collect the spots of at least 5 expected photons that strike the detector."""
    corner = DETECTOR_EDGE_M / math.sqrt(2) / DISTANCE_M
    hkl, vectors, relative = reflections(round(WAVELENGTH_A / (2 * math.sin(math.atan(corner) / 2)), 6))
    outgoing = vectors @ random_rotation(rng).T + np.array([0.0, 0.0, 1 / WAVELENGTH_A])
    excitation = np.linalg.norm(outgoing, axis=1) - 1 / WAVELENGTH_A
    near = np.flatnonzero((np.abs(excitation) < 3 * EXCITATION_WIDTH) & (outgoing[:, 2] > 0))
    # Crystals differ in size, and so do pulses in energy.
    strength = settings.intensity * rng.lognormal(0.0, 0.4) * rng.gamma(8.0, 1 / 8.0)
    intensity = strength * relative[near] * np.exp(-0.5 * (excitation[near] / EXCITATION_WIDTH) ** 2)
    scale = DISTANCE_M / settings.pixel_m / outgoing[near, 2]
    fs = settings.beam_centre[0] + outgoing[near, 0] * scale
    ss = settings.beam_centre[1] + outgoing[near, 1] * scale
    last = settings.size - 1
    keep = (intensity >= 5) & (fs >= 0) & (fs <= last) & (ss >= 0) & (ss <= last)
    return Spots(fs=fs[keep], ss=ss[keep], intensity=intensity[keep], hkl=hkl[near[keep]])


def draw_spots(settings: Settings, spots: Spots, expected: FloatArray) -> FloatArray:
    """Add the spots to the expected photons, in place.

    Returns:
        expected photons of each spot in its brightest pixel, shape (n,).
    """
    steps = np.arange(-SPOT_REACH, SPOT_REACH + 1)
    rows = np.rint(spots.ss).astype(np.int64)[:, None, None] + steps[None, :, None]
    columns = np.rint(spots.fs).astype(np.int64)[:, None, None] + steps[None, None, :]
    down, right = rows - spots.ss[:, None, None], columns - spots.fs[:, None, None]
    away = np.hypot(spots.fs - settings.beam_centre[0], spots.ss - settings.beam_centre[1])[:, None, None]
    # Unit vector along the radius: bandwidth and divergence smear a spot in this direction, the more the farther out.
    out_fs = (spots.fs[:, None, None] - settings.beam_centre[0]) / away
    out_ss = (spots.ss[:, None, None] - settings.beam_centre[1]) / away
    along, across = right * out_fs + down * out_ss, down * out_fs - right * out_ss
    sigma_across = 0.85
    sigma_along = sigma_across + 0.5 * away / (settings.size / 2)
    profile = np.exp(-0.5 * ((along / sigma_along) ** 2 + (across / sigma_across) ** 2))
    photons = spots.intensity[:, None, None] * profile / profile.sum(axis=(1, 2), keepdims=True)
    rows, columns = np.broadcast_arrays(rows, columns)
    inside = (rows >= 0) & (rows < settings.size) & (columns >= 0) & (columns < settings.size)
    np.add.at(expected, (rows[inside], columns[inside]), photons[inside])
    return np.asarray(photons.max(axis=(1, 2)), np.float64)


class Detector:
    """What is common to all frames of a run: mask, background, and where spots are too near to an edge."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.mask = detector_mask(settings)
        self.background = expected_background(settings)
        self._near_edge = near_edge(self.mask)

    def expose(self, number: int) -> tuple[npt.NDArray[np.uint16], list[dict[str, Any]] | None]:
        """Take frame `number`.

        Returns:
            (photons of shape (size, size); the planted peaks, or None for a frame without a crystal). A peak's `snr` is
            the expectation of its brightest pixel over the noise (root of the expected background) of that pixel.
        """
        rng = np.random.default_rng([self.settings.seed, number])
        expected, peaks = self.background, None
        if rng.random() < self.settings.hit_rate:
            expected = expected.copy()
            spots = diffract(self.settings, rng)
            brightest = draw_spots(self.settings, spots, expected)
            peaks = self._describe(spots, brightest)
        photons = rng.poisson(expected)
        zingers = rng.poisson(4)
        where = rng.integers(self.settings.size, size=(2, zingers))
        photons[where[0], where[1]] += rng.integers(200, 2000, size=zingers)
        frame = np.minimum(photons, NO_VALUE - 1).astype(np.uint16)
        frame[(self.mask & (GAP | HOT)) != 0] = NO_VALUE
        frame[(self.mask & (DEAD | SHADOW)) != 0] = 0
        return frame, peaks

    def _describe(self, spots: Spots, brightest: FloatArray) -> list[dict[str, Any]]:
        at = np.rint(spots.ss).astype(np.int64), np.rint(spots.fs).astype(np.int64)
        snr, edge = brightest / np.sqrt(self.background[at]), self._near_edge[at]
        return [
            {
                "fs": round(float(spots.fs[i]), 2),
                "ss": round(float(spots.ss[i]), 2),
                "intensity": round(float(spots.intensity[i]), 1),
                "snr": round(float(snr[i]), 2),
                "edge": bool(edge[i]),
                "hkl": spots.hkl[i].tolist(),
            }
            for i in np.argsort(-snr)
        ]


def dataset_filter(compression: str) -> dict[str, Any]:
    """Choose the arguments of `create_dataset` for a compression.

    Raises:
        ValueError: bitshuffle without the package hdf5plugin.
    """
    if compression == "bitshuffle":
        try:
            import hdf5plugin
        except ImportError as error:
            raise ValueError("bitshuffle needs the package hdf5plugin: pip install hdf5plugin") from error
        return dict(hdf5plugin.Bitshuffle(cname="lz4"))
    return {"compression": "gzip", "compression_opts": 1, "shuffle": True} if compression == "gzip" else {}


def write_file(path: Path, frames: list[npt.NDArray[np.uint16]], first: int, detector: Detector) -> None:
    """Write one NeXus-like file: frames at /entry/data/data (n, ss, fs), mask and geometry at /entry/instrument.

    It appears under its name only when it is complete, so that whoever watches the directory reads whole files.
    """
    settings = detector.settings
    partial = path.with_name(f".{path.name}.part")
    with h5py.File(partial, "w", libver="latest") as file:
        groups = {
            "/entry": "NXentry",
            "/entry/data": "NXdata",
            "/entry/instrument": "NXinstrument",
            "/entry/instrument/detector": "NXdetector",
            "/entry/instrument/beam": "NXbeam",
        }
        for name, nexus_class in groups.items():
            file.create_group(name).attrs["NX_class"] = nexus_class
        file["/entry"].attrs["default"] = "data"
        file["/entry/data"].attrs["signal"] = "data"
        data = file.create_dataset(
            "/entry/data/data",
            data=np.stack(frames),
            chunks=(1, settings.size, settings.size),
            **dataset_filter(settings.compression),
        )
        data.attrs.update({"image_nr_low": first, "image_nr_high": first + len(frames) - 1, "seed": settings.seed})
        instrument = file["/entry/instrument/detector"]
        instrument.create_dataset("pixel_mask", data=detector.mask, chunks=detector.mask.shape, compression="gzip", shuffle=True)
        instrument.attrs["sensor"] = "simulated photon counter, 4 x 2 modules"
        for name, value, unit in (
            ("beam_center_x", settings.beam_centre[0], "pixel"),
            ("beam_center_y", settings.beam_centre[1], "pixel"),
            ("detector_distance", DISTANCE_M, "m"),
            ("x_pixel_size", settings.pixel_m, "m"),
            ("y_pixel_size", settings.pixel_m, "m"),
        ):
            instrument[name] = value
            instrument[name].attrs["units"] = unit
        file["/entry/instrument/beam/incident_wavelength"] = WAVELENGTH_A
        file["/entry/instrument/beam/incident_wavelength"].attrs["units"] = "angstrom"
    partial.chmod(0o644)  # another user's container will read it, whatever this process's umask
    partial.replace(path)


def _files(settings: Settings) -> Iterator[tuple[str, range]]:
    """Yield (file name, numbers of the frames in it)."""
    for first in range(0, settings.frames, settings.frames_per_file):
        numbers = range(first, min(first + settings.frames_per_file, settings.frames))
        yield f"frame_{first:06}.h5" if settings.frames_per_file == 1 else f"frames_{first:06}.h5", numbers


def write_run(directory: Path, settings: Settings, progress: Callable[[int], None] = lambda _done: None) -> dict[str, Any]:
    """Write a run and its truth.

    Args:
        directory: made when absent; files of the same names are replaced.
        settings: what to draw.
        progress: called after each file with the number of frames done.

    Returns:
        the truth, as in `truth.json`: `settings`, and `frames`, each with `file`, `event` (index in the file), `hit`, `peaks`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "truth.json").unlink(missing_ok=True)  # a run without its truth is an unfinished one
    detector = Detector(settings)
    entries = []
    for name, numbers in _files(settings):
        frames = []
        for event, number in enumerate(numbers):
            frame, peaks = detector.expose(number)
            frames.append(frame)
            entries.append({"file": name, "event": event, "hit": peaks is not None, "peaks": peaks or []})
        write_file(directory / name, frames, numbers.start, detector)
        progress(numbers.stop)
    truth = {"settings": asdict(settings), "frames": entries}
    partial = directory / ".truth.json.part"
    partial.write_text(json.dumps(truth, separators=(",", ":")))
    partial.replace(directory / "truth.json")
    return truth


def read_run(directory: Path, settings: Settings) -> dict[str, Any] | None:
    """Read the truth of a run that is complete and was written with equal settings; None when there is none."""
    try:
        truth: dict[str, Any] = json.loads((directory / "truth.json").read_text())
    except (OSError, ValueError):
        return None
    complete = all((directory / name).is_file() for name, _ in _files(settings))
    return truth if complete and truth.get("settings") == asdict(settings) else None


def _parse(arguments: list[str] | None) -> tuple[Path, Settings]:
    default = Settings()
    parser = argparse.ArgumentParser(
        description="Write detector frames with planted Bragg peaks as HDF5, and truth.json beside them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, help="where to write; made when absent")
    parser.add_argument("--frames", type=int, default=default.frames, help="number of frames (%(default)s)")
    parser.add_argument("--seed", type=int, default=default.seed, help="same seed, same pixels (%(default)s)")
    parser.add_argument("--hit-rate", type=float, default=default.hit_rate, help="share of frames with a crystal (%(default)s)")
    parser.add_argument("--size", type=int, default=default.size, help="edge of the detector, pixels (%(default)s)")
    parser.add_argument(
        "--background", type=float, default=default.background, help="photons per pixel near the beam (%(default)s)"
    )
    parser.add_argument(
        "--intensity", type=float, default=default.intensity, help="photons of an average reflection (%(default)s)"
    )
    parser.add_argument(
        "--compression", choices=("gzip", "bitshuffle", "none"), default=default.compression, help="(%(default)s)"
    )
    parser.add_argument("--frames-per-file", type=int, default=1, help="1 is a file per frame (%(default)s)")
    options = vars(parser.parse_args(arguments))
    directory: Path = options.pop("directory")
    try:
        settings = Settings(**options)
        dataset_filter(settings.compression)
    except ValueError as error:
        parser.error(str(error))
    return directory, settings


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    directory, settings = _parse(arguments)

    def progress(done: int) -> None:
        if sys.stderr.isatty() or done == settings.frames:
            print(
                f"\r{done} of {settings.frames} frames", end="\n" if done == settings.frames else "", file=sys.stderr, flush=True
            )

    try:
        truth = write_run(directory, settings, progress)
    except OSError as error:
        print(f"generate.py: cannot write to {directory}: {error.strerror or error}", file=sys.stderr)
        return 1
    hits = sum(frame["hit"] for frame in truth["frames"])
    planted = sum(len(frame["peaks"]) for frame in truth["frames"])
    size_mb = sum(entry.stat().st_size for entry in os.scandir(directory)) / 1e6
    print(f"{directory}: {settings.frames} frames, {hits} hits, {planted} planted peaks, {size_mb:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
