"""The operators' side door: a Unix socket, its messages, and what the daemon does for them."""
