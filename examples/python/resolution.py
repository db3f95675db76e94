"""What a pixel of a diffraction image stands for: scattering angle, resolution and momentum transfer.

{"energy_kev": 9.54, "distance_mm": 100, "radius_mm": 43}
-> {"wavelength_a": 1.2996, "two_theta_deg": 23.268, "d_a": 3.2224, "q_inv_a": 1.9499}
"""

import math

#: Planck constant times speed of light, keV Angstrom (CODATA 2018, exact).
HC_KEV_A = 12.398419843320026


def main(args):
    """Answer for one radius; `{"error": sentence}` when the numbers make no experiment."""
    try:
        energy, distance, radius = (float(args[name]) for name in ("energy_kev", "distance_mm", "radius_mm"))
    except KeyError as missing:
        return {"error": f"{missing} is missing: give energy_kev, distance_mm and radius_mm"}
    except (TypeError, ValueError):
        return {"error": "energy_kev, distance_mm and radius_mm must be numbers"}
    if not (0 < energy < math.inf and 0 < distance < math.inf and 0 < radius < math.inf):
        return {"error": "energy_kev, distance_mm and radius_mm must be above 0"}

    wavelength = HC_KEV_A / energy
    two_theta = math.atan2(radius, distance)
    d = wavelength / (2 * math.sin(two_theta / 2))  # Bragg's law, first order
    print(f"{energy} keV, {radius} mm off the beam at {distance} mm")  # a log line of the activation
    return {
        "wavelength_a": round(wavelength, 4),
        "two_theta_deg": round(math.degrees(two_theta), 3),
        "d_a": round(d, 4),
        "q_inv_a": round(2 * math.pi / d, 4),
    }
