"""Finished activations for tests that only need what came of them."""

import msgspec

from invoker.activation import Activation, Meter, Status
from invoker.model import Limits
from pool.model import ActivationId


def finished(result, status=Status.SUCCESS, outcome="ok", **fields):
    """An activation that ended with this result: bytes are its JSON text."""
    text = result if isinstance(result, bytes) else msgspec.json.encode(result)
    values = {
        "activation_id": ActivationId("0" * 32),
        "node": "n",
        "namespace": "anna",
        "subject": "anna",
        "path": "anna/c",
        "version": "0.0.1",
        "kind": "nodejs:20",
        "limits": Limits(),
        "start_ms": 0,
        "end_ms": 1,
        "status": status,
        "result": msgspec.Raw(text),
        "meter": Meter(outcome=outcome),
    }
    return Activation(**(values | fields))
