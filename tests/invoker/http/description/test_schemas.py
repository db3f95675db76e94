import pytest
from jsonschema import Draft202012Validator

from invoker.http.description.schemas import SCHEMAS


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_schema_is_a_valid_one(name):
    Draft202012Validator.check_schema(SCHEMAS[name])


def test_what_a_client_may_send_as_null_is_nullable():
    definitions = {"components": {"schemas": SCHEMAS}}
    empty = {"exec": None, "annotations": None, "limits": {"memory": None}, "publish": None, "unknown": 1}
    Draft202012Validator({**SCHEMAS["ActionPut"], **definitions}).validate(empty)
