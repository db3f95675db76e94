"""Where the rings of a cubic powder fall on a flat detector."""

import math


def is_present(h, k, l, lattice):  # noqa: E741  (h, k, l are the field's own names)
    """Tell whether a reflection exists (International Tables A: reflection conditions)."""
    if lattice == "primitive":
        return True
    if not h % 2 == k % 2 == l % 2:
        return False
    return lattice == "face-centred" or h % 2 == 1 or (h + k + l) % 4 == 0


def on_detector(calibrant, *, wavelength_a, distance_mm, pixel_um, max_radius_px):
    """List the rings up to a radius, innermost first: one entry for each spacing.

    Two reflections with the same h^2 + k^2 + l^2 share a ring; the one with the largest h names it.
    """
    widest = math.atan2(max_radius_px * pixel_um / 1000, distance_mm)
    longest = 2 * math.sin(widest / 2) / wavelength_a  # 1/d, Angstrom^-1
    limit = int((longest * calibrant.a_angstrom) ** 2 + 1e-9)
    names = {}
    for h in range(math.isqrt(limit) + 1):
        for k in range(min(h, math.isqrt(limit - h * h)) + 1):
            for l in range(min(k, math.isqrt(limit - h * h - k * k)) + 1):  # noqa: E741
                if h and is_present(h, k, l, calibrant.lattice):
                    names[h * h + k * k + l * l] = [h, k, l]
    found = []
    for square, hkl in sorted(names.items()):
        d = calibrant.a_angstrom / math.sqrt(square)
        two_theta = 2 * math.asin(wavelength_a / (2 * d))
        radius = distance_mm * math.tan(two_theta) * 1000 / pixel_um
        found.append(
            {"hkl": hkl, "d_a": round(d, 4), "two_theta_deg": round(math.degrees(two_theta), 3), "radius_px": round(radius, 1)}
        )
    return found
