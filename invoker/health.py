"""What `/health` and `/ready` tell."""

from __future__ import annotations

import msgspec


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    Attributes:
        name: stable, kebab case.
        detail: for the operator: what was seen, and what to do.
        warning: the node serves as it should, and an operator has something to do all the same.
    """

    name: str
    ok: bool
    detail: str = ""
    warning: bool = False


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The checks of one moment. Healthy when all are."""

    checks: tuple[Check, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)
