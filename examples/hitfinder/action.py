"""Find the Bragg peaks of one detector frame, by reference: a path goes in, a peak list comes out, pixels never travel.

    {"path": "/data/run0001/frame_000012.h5"}
    -> {"path": ..., "hit": true, "n_peaks": 74, "peaks": [{"fs": 512.3, "ss": 80.1, "intensity": 812.0, ...}, ...], ...}

The method is that of peakfinder8 (Barty et al., J. Appl. Cryst. 47, 1118, 2014): mean and scatter of the background in
rings around the beam, a threshold per ring, connected components, and for each a local background. A frame's geometry
is a look-up table (pixels in order of their ring) that is built once per container and kept.

Needs numpy, scipy and h5py; hdf5plugin where frames are compressed with bitshuffle.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

try:
    import hdf5plugin  # noqa: F401  (importing it registers the filters)

    FILTERS = ""
except ImportError:
    FILTERS = " (or it is compressed, and hdf5plugin is not in this image)"

Array = npt.NDArray[Any]

#: Option: (default, least, greatest, what it is). `invoke -p NAME VALUE` sets one call, `update -p` binds it to the action.
OPTIONS = {
    "event": (0, 0, 10**9, "index of the frame in its file"),
    "snr": (5.0, 1, 1000, "a pixel belongs to a peak above mean + snr x scatter of its ring"),
    "min_counts": (6.0, 0, 1e9, "and so many counts above the mean: matters where the background is near zero"),
    "min_pixels": (2, 1, 10**6, "smaller peaks are dropped: zingers have one pixel"),
    "max_pixels": (200, 1, 10**6, "larger peaks are dropped: ice, salt, scattered beam"),
    "min_peaks": (15, 1, 10**6, "a frame with so many peaks is a hit"),
    "max_peaks": (250, 1, 2048, "the most peaks to list; the brightest come first"),
}
TEXTS = {"path": None, "data_root": "/data", "dataset": "/entry/data/data"}
INSTRUMENT = "/entry/instrument/detector"
MAX_PIXELS = 4096 * 4608

#: A ring has at least so many pixels: the scatter is then known to 5 %.
RING_PIXELS = 200
#: Pixels above mean + CLIP x scatter are left out of the next round's mean and scatter. A share of bright pixels up to
#: 1 / (1 + CLIP^2), a tenth, is got rid of; for what is left, four rounds are enough.
CLIP, ROUNDS = 3.0, 4
#: Radii in pixels: peaks are summed up to the first, their background is taken between the other two.
PEAK_RADIUS, BACKGROUND_FROM, BACKGROUND_TO = 3.2, 4.0, 6.5


class BadInput(Exception):
    """The caller can mend this; the message says how."""


class Geometry:
    """Look-up tables of one detector: which pixels are good, and in which ring around the beam.

    Attributes:
        shape: (ss, fs).
        good: (ss, fs), bool.
        order: (n_good,), flat indices of good pixels, ring by ring, innermost first.
        starts: (n_rings,), where in `order` each ring begins.
        counts: (n_rings,), good pixels of each ring.
        ring: (n_good,), ring of each entry of `order`.
    """

    def __init__(self, good: Array, beam_centre: tuple[float, float]) -> None:
        fs, ss = beam_centre
        self.shape, self.good = good.shape, good
        radius = np.hypot(np.arange(good.shape[1])[None, :] - fs, np.arange(good.shape[0])[:, None] - ss)
        flat = np.flatnonzero(good)
        pixel_ring = radius.astype(np.int32).ravel()[flat]
        by_radius = np.argsort(pixel_ring, kind="stable")
        self.order = flat[by_radius]
        # One ring is one pixel wide; thin ones, near the beam and in the corners, are joined until they hold enough.
        ends: list[int] = []
        held = 0
        for count in np.bincount(pixel_ring):
            held += int(count)
            if held >= RING_PIXELS:
                ends.append(held + (ends[-1] if ends else 0))
                held = 0
        if held and ends:
            ends[-1] += held
        ends = ends or [held]
        self.starts = np.array([0, *ends[:-1]])
        self.counts = np.diff([0, *ends])
        self.ring = np.repeat(np.arange(len(ends), dtype=np.int32), self.counts)


_geometries: dict[tuple[Any, ...], Geometry] = {}


def geometry_of(good: Array, beam_centre: tuple[float, float]) -> Geometry:
    """Return the look-up tables of a mask and a beam centre; kept for the life of the container, the last four of them."""
    key = (good.shape, beam_centre, hashlib.blake2b(good.data, digest_size=16).digest())
    if key not in _geometries:
        if len(_geometries) >= 4:
            _geometries.pop(next(iter(_geometries)))
        _geometries[key] = Geometry(good, beam_centre)
    return _geometries[key]


def ring_statistics(values: Array, usable: Array, geometry: Geometry) -> tuple[Array, Array]:
    """Estimate mean and scatter of the background in each ring, leaving out what stands above it.

    Args:
        values: (n_good,), float32, in the order of `geometry.order`.
        usable: (n_good,), bool: finite and not saturated.
        geometry: which pixels make a ring.

    Returns:
        (mean, scatter), each (n_rings,), float64.
    """
    keep = usable
    for _ in range(ROUNDS):
        kept = np.where(keep, values, np.float32(0))
        n = np.maximum(np.add.reduceat(keep, geometry.starts, dtype=np.int64), 1)
        mean = np.add.reduceat(kept, geometry.starts, dtype=np.float64) / n
        square = np.add.reduceat(kept * kept, geometry.starts, dtype=np.float64) / n
        scatter = np.sqrt(np.maximum(square - mean * mean, 1e-6))
        keep = usable & (values <= (mean + CLIP * scatter).astype(np.float32)[geometry.ring])
    return mean, scatter


def label_pixels(flat: Array, width: int) -> tuple[int, Array]:
    """Join pixels that touch, corners included, into components.

    Args:
        flat: (n,), flat indices of the pixels, ascending.
        width: pixels in a row of the frame.

    Returns:
        (number of components, label of each pixel of shape (n,)). Costs grow with n, not with the frame.
    """
    column = flat % width
    pairs = []
    for step, across in ((1, 1), (width - 1, -1), (width, 0), (width + 1, 1)):
        partner = np.minimum(np.searchsorted(flat, flat + step), len(flat) - 1)
        touching = np.flatnonzero((flat[partner] == flat + step) & (column[partner] - column == across))
        pairs.append((touching, partner[touching]))
    rows, columns = (np.concatenate(side) for side in zip(*pairs, strict=True))
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(len(flat), len(flat)))
    count, labels = connected_components(graph, directed=False)
    return int(count), labels


def find_peaks(frame: Array, geometry: Geometry, options: Mapping[str, Any]) -> tuple[dict[str, Array], Array]:
    """Find peaks.

    Args:
        frame: (ss, fs), any real numbers.
        geometry: of the same shape.
        options: as in OPTIONS.

    Returns:
        (peaks, strongest first, as arrays fs, ss, intensity, snr, n_pixels; background as mean per ring).
    """
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and so not usable
        values = frame.ravel()[geometry.order].astype(np.float32)
    saturation = np.iinfo(frame.dtype).max if frame.dtype.kind in "iu" else np.inf
    usable = values < np.float32(saturation)  # false for NaN, too
    mean, scatter = ring_statistics(values, usable, geometry)
    threshold = mean + np.maximum(options["snr"] * scatter, options["min_counts"])
    bright = np.flatnonzero(usable & (values > threshold.astype(np.float32)[geometry.ring]))
    if len(bright) == 0:
        return {name: np.zeros(0) for name in ("fs", "ss", "intensity", "snr", "n_pixels")}, mean

    ascending = np.argsort(geometry.order[bright])
    bright = bright[ascending]
    flat = geometry.order[bright]
    excess = values[bright] - mean[geometry.ring[bright]]
    n_labels, labels = label_pixels(flat, frame.shape[1])
    n_pixels = np.bincount(labels, minlength=n_labels)
    weight = np.bincount(labels, excess, n_labels)
    ss = np.bincount(labels, excess * (flat // frame.shape[1]), n_labels) / weight
    fs = np.bincount(labels, excess * (flat % frame.shape[1]), n_labels) / weight
    kept = np.flatnonzero((n_pixels >= options["min_pixels"]) & (n_pixels <= options["max_pixels"]))
    ring = np.zeros(n_labels, np.int64)
    ring[labels] = geometry.ring[bright]
    background = mean[ring[kept]], scatter[ring[kept]]
    intensity, snr = integrate(
        frame, geometry, bright=flat, at=(fs[kept], ss[kept]), background=background, saturation=saturation
    )
    first = np.argsort(-intensity, kind="stable")
    peaks = {"fs": fs[kept], "ss": ss[kept], "intensity": intensity, "snr": snr, "n_pixels": n_pixels[kept]}
    return {name: column[first] for name, column in peaks.items()}, mean


def integrate(
    frame: Array,
    geometry: Geometry,
    *,
    bright: Array,
    at: tuple[Array, Array],
    background: tuple[Array, Array],
    saturation: float,
) -> tuple[Array, Array]:
    """Sum each peak over a disc, less the local background of a ring around it.

    Args:
        frame: (ss, fs).
        geometry: of the frame; masked pixels count neither here nor there.
        bright: flat indices of all pixels above threshold; none of them counts as background.
        at: centroids (fs, ss), each (n_peaks,).
        background: mean and scatter of each peak's ring around the beam, each (n_peaks,): what is taken where a gap or
            neighbours leave fewer than 20 pixels of local background.
        saturation: values from here on are none.

    Returns:
        (intensity in counts, snr = intensity over the noise of the background under it), each (n_peaks,).
    """
    (fs, ss), (ring_mean, ring_scatter) = at, background
    steps = np.arange(-7, 8)
    rows = np.rint(ss).astype(np.int64)[:, None, None] + steps[None, :, None]
    columns = np.rint(fs).astype(np.int64)[:, None, None] + steps[None, None, :]
    inside = (rows >= 0) & (rows < frame.shape[0]) & (columns >= 0) & (columns < frame.shape[1])
    distance = np.hypot(rows - ss[:, None, None], columns - fs[:, None, None])
    index = np.where(inside, rows * frame.shape[1] + columns, 0)
    is_bright = np.zeros(frame.size, np.bool_)
    is_bright[bright] = True
    window = frame.ravel()[index].astype(np.float64)
    usable = inside & geometry.good.ravel()[index] & (window < saturation)
    under = usable & (distance <= PEAK_RADIUS)
    around = usable & (distance >= BACKGROUND_FROM) & (distance <= BACKGROUND_TO) & ~is_bright[index]
    enough = (n_around := around.sum(axis=(1, 2))) >= 20
    n_around = np.maximum(n_around, 1)
    window[~usable] = 0
    level = np.where(enough, (window * around).sum(axis=(1, 2)) / n_around, ring_mean)
    variance = (((window - level[:, None, None]) ** 2) * around).sum(axis=(1, 2)) / n_around
    noise = np.where(enough, np.sqrt(np.maximum(variance, 1e-6)), ring_scatter)
    intensity = ((window - level[:, None, None]) * under).sum(axis=(1, 2))
    return intensity, intensity / (noise * np.sqrt(np.maximum(under.sum(axis=(1, 2)), 1)))


def read_options(args: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    """Check the arguments; return (texts, numbers, names that mean nothing here).

    Raises:
        BadInput: naming the argument.
    """
    texts = {name: args.get(name, default) for name, default in TEXTS.items()}
    if texts["path"] is None:
        raise BadInput('"path" is missing: give the path of an HDF5 file, for example {"path": "/data/run0001/frame_000000.h5"}')
    for name, value in texts.items():
        if not isinstance(value, str) or not value or "\0" in value:
            raise BadInput(f'"{name}" must be a non-empty text')
    numbers: dict[str, Any] = {}
    for name, (default, least, greatest, meaning) in OPTIONS.items():
        value = args.get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float) if isinstance(default, float) else int):
            raise BadInput(f'"{name}" must be a {"number" if isinstance(default, float) else "whole number"}: {meaning}')
        if not least <= value <= greatest:
            raise BadInput(f'"{name}" is {value}; it must be from {least} to {greatest}: {meaning}')
        numbers[name] = value
    centre = args.get("beam_centre")
    if centre is not None:
        is_pair = isinstance(centre, list) and len(centre) == 2
        if not is_pair or any(isinstance(x, bool) or not isinstance(x, (int, float)) or not abs(x) < 1e5 for x in centre):
            raise BadInput('"beam_centre" must be [fs, ss] in pixels')
        numbers["beam_centre"] = (float(centre[0]), float(centre[1]))
    known = {*TEXTS, *OPTIONS, "beam_centre"}
    return texts, numbers, sorted(name for name in args if name not in known and not name.startswith("__ow_"))


def resolve(path: str, data_root: str) -> str:
    """Return the real path of a regular file below the data root.

    The kernel decides what this process may read; this check turns a slip into a sentence.

    Raises:
        BadInput: outside, missing, not a file, not readable.
    """
    root = os.path.realpath(data_root)
    real = os.path.realpath(os.path.join(root, path))
    if os.path.commonpath([root, real]) != root:
        raise BadInput(f"{path} is outside the data mount {data_root}")
    try:
        kind = os.stat(real).st_mode
    except OSError as error:
        mounted = "" if os.path.isdir(root) else f" (nothing is mounted at {data_root} in this namespace)"
        raise BadInput(f"{path}: {error.strerror or error}{mounted}") from error
    if not stat.S_ISREG(kind):
        raise BadInput(f"{path} is not a regular file")
    if not os.access(real, os.R_OK):
        raise BadInput(f"{path}: user {os.getuid()} may not read it")
    return real


def read_frame(file: h5py.File, texts: Mapping[str, str], numbers: Mapping[str, Any]) -> tuple[Array, Geometry, str]:
    """Read one frame with its mask and beam centre from an open file.

    Returns:
        (frame of shape (ss, fs), Geometry, where the beam centre is from).

    Raises:
        BadInput: the file holds no such frame.
        OSError: HDF5 could not read.
    """
    path, name = texts["path"], texts["dataset"]
    data = file.get(name)
    if not isinstance(data, h5py.Dataset):
        raise BadInput(f"{path} has no dataset {name}")
    if data.dtype.kind not in "iuf" or data.ndim not in (2, 3):
        raise BadInput(f"{path}: {name} is {data.dtype} of shape {data.shape}; a frame is numbers, (ss, fs) or (event, ss, fs)")
    shape, events = data.shape[-2:], data.shape[0] if data.ndim == 3 else 1
    if numbers["event"] >= events:
        raise BadInput(f"{path} has {events} frame(s), numbered from 0; there is no event {numbers['event']}")
    if min(shape) < 32 or shape[0] * shape[1] > MAX_PIXELS:
        raise BadInput(f"{path}: a frame of {shape[0]} x {shape[1]} pixels is not within 32 x 32 and {MAX_PIXELS} pixels")

    mask = file.get(f"{INSTRUMENT}/pixel_mask")
    if mask is not None and (not isinstance(mask, h5py.Dataset) or mask.shape != shape or mask.dtype.kind not in "iub"):
        raise BadInput(f"{path}: {INSTRUMENT}/pixel_mask is no array of {shape[0]} x {shape[1]} whole numbers")
    good = np.ones(shape, np.bool_) if mask is None else mask[()] == 0
    if not good.any():
        raise BadInput(f"{path}: pixel_mask leaves no good pixel")

    centre, source = numbers.get("beam_centre"), "argument"
    if centre is None:
        ends = [file.get(f"{INSTRUMENT}/beam_center_{axis}") for axis in "xy"]
        if all(isinstance(end, h5py.Dataset) and end.size == 1 and end.dtype.kind in "iuf" for end in ends):
            centre, source = (float(ends[0][()].item()), float(ends[1][()].item())), "file"
        else:
            centre, source = (shape[1] / 2, shape[0] / 2), "assumed: middle"
        if not all(abs(x) < 1e5 for x in centre):
            raise BadInput(f"{path}: the beam centre {centre} is not on this earth; give beam_centre: [fs, ss]")
    frame = data[numbers["event"]] if data.ndim == 3 else data[()]
    return frame, geometry_of(good, centre), source


def main(args: dict[str, Any]) -> dict[str, Any]:
    """Entry point of the action: arguments in, peak list out, or `{"error": sentence}` for what the caller can mend."""
    began = time.perf_counter()
    try:
        texts, numbers, ignored = read_options(args)
        real = resolve(texts["path"], texts["data_root"])
        if not h5py.is_hdf5(real):
            raise BadInput(f"{texts['path']} is not an HDF5 file")
        try:
            # Without locks: the mount is read-only, and network file systems refuse them.
            with h5py.File(real, "r", locking=False) as file:
                frame, geometry, centre_from = read_frame(file, texts, numbers)
        except (OSError, RuntimeError, KeyError) as error:
            raise BadInput(f"{texts['path']} is truncated, damaged or still being written{FILTERS}: {error}") from error
    except BadInput as error:
        return {"error": str(error)}

    read = time.perf_counter()
    peaks, background = find_peaks(frame, geometry, numbers)
    n_peaks = len(peaks["fs"])
    listed = zip(
        *(peaks[name][: numbers["max_peaks"]].tolist() for name in ("fs", "ss", "intensity", "snr", "n_pixels")), strict=True
    )
    result = {
        "path": texts["path"],
        "event": numbers["event"],
        "hit": n_peaks >= numbers["min_peaks"],
        "n_peaks": n_peaks,
        "peaks": [
            {"fs": round(fs, 2), "ss": round(ss, 2), "intensity": round(total, 1), "snr": round(snr, 1), "n_pixels": int(pixels)}
            for fs, ss, total, snr, pixels in listed
        ],
        "seconds": round(time.perf_counter() - began, 4),
        "frame": {
            "shape": list(frame.shape),
            "good_pixels": len(geometry.order),
            "background": round(float(np.average(background, weights=geometry.counts)), 2),
            "beam_centre_from": centre_from,
            "read_seconds": round(read - began, 4),
        },
    }
    if ignored:
        result["ignored"] = ignored
    return result
