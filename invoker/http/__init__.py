"""The HTTP API: from a request to a call, and from an activation to a reply."""
