import json

import pytest

from invoker.errors import TooLarge
from invoker.http.bodies import parse_action
from invoker.http.sizes import check_action_sizes
from invoker.model import MIB


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"exec": {"kind": "python:3", "code": "x" * 2000}}, "exec larger than allowed: 2000 > 1024 bytes."),
        ({"exec": {"kind": "x", "code": "x" * 1000, "main": "m" * 25}}, "exec larger than allowed: 1025 > 1024 bytes."),
        ({"parameters": [{"key": "a", "value": "x" * MIB}]}, f"parameters larger than allowed: {MIB + 3} > {MIB} bytes."),
        ({"annotations": [{"key": "a", "value": "x" * MIB}]}, f"annotations larger than allowed: {MIB + 3} > {MIB} bytes."),
    ],
)
def test_what_is_too_large_is_named_with_both_sizes(fields, sentence):
    with pytest.raises(TooLarge) as refused:
        check_action_sizes(parse_action(json.dumps(fields).encode()), code_bytes=1024)
    assert str(refused.value) == sentence
