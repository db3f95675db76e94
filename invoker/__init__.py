"""The daemon: a request in, an activation out."""
