"""The API in process."""

from api_site import make_activation, site

__all__ = ["make_activation", "site"]
