"""Powder diffraction of cubic calibrants."""
