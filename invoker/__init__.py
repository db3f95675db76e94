"""The daemon: a request in, an activation out."""

__version__ = "0.1.0"
