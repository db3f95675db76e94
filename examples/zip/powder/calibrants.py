"""The table of calibrants, from the data file beside this module."""

import csv
import importlib.resources
from typing import NamedTuple


class Calibrant(NamedTuple):
    """A cubic crystal: edge of its cell in Angstrom, and its lattice, which says which reflections are absent."""

    a_angstrom: float
    lattice: str


def load():
    """Read the table: name -> Calibrant."""
    text = importlib.resources.files(__package__).joinpath("calibrants.csv").read_text()
    return {row["name"]: Calibrant(float(row["a_angstrom"]), row["lattice"]) for row in csv.DictReader(text.splitlines())}
