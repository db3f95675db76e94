"""Powder rings of a calibrant on a detector: an action of several modules and a data file, deployed as a zip.

{"calibrant": "LaB6", "wavelength_a": 1.3, "distance_mm": 100, "pixel_um": 150, "max_radius_px": 512}
-> {"calibrant": "LaB6", "rings": [{"hkl": [1, 0, 0], "d_a": 4.1568, "two_theta_deg": 17.99, "radius_px": 216.5}, ...]}
"""

from powder import calibrants, rings


def main(args):
    """List the rings within a radius; `{"error": sentence}` for a calibrant or a geometry that does not exist."""
    name = args.get("calibrant", "LaB6")
    known = calibrants.load()
    if name not in known:
        return {"error": f"calibrant {name!r} is unknown; known are {', '.join(sorted(known))}"}
    try:
        geometry = {
            key: float(args.get(key, default))
            for key, default in (("wavelength_a", 1.3), ("distance_mm", 100), ("pixel_um", 150), ("max_radius_px", 512))
        }
    except (TypeError, ValueError):
        return {"error": "wavelength_a, distance_mm, pixel_um and max_radius_px must be numbers"}
    bad = next((key for key, value in geometry.items() if not 0 < value <= 1e6), None)
    if bad is not None:
        return {"error": f"{bad} must be above 0 and at most 1000000"}
    if geometry["wavelength_a"] < 0.05:
        return {"error": "wavelength_a below 0.05 Angstrom would need some hundred thousand rings"}
    return {"calibrant": name, "rings": rings.on_detector(known[name], **geometry)}
