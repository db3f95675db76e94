"""What an annotation's value means where a yes or a no is wanted: one rule, whoever asks."""

import msgspec
import pytest
from invoker_site import action

from invoker.model import Annotation, is_truthy

#: JSON text of a value, and whether it means yes.
TRUTH = [
    (b"true", True),
    (b"false", False),
    (b"1", True),
    (b"-1", True),
    (b"0.1", True),
    (b"0", False),
    (b"0.0", False),
    (b'"x"', True),
    (b'"false"', True),
    (b'" "', True),
    (b'""', False),
    (b"null", False),
    (b"{}", True),
    (b'{"a":false}', True),
    (b"[]", True),
    (b"[0]", True),
]


def annotated(key: str, text: bytes):
    return action(annotations=(Annotation(key=key, value=msgspec.Raw(text)),))


@pytest.mark.parametrize(("text", "yes"), TRUTH)
def test_all_but_false_zero_the_empty_string_and_null_is_yes(text, yes):
    assert is_truthy(msgspec.json.decode(text)) is yes
    assert annotated("conductor", text).says_yes("conductor") is yes


@pytest.mark.parametrize(("text", "yes"), TRUTH)
def test_an_action_composes_by_the_same_rule(text, yes):
    assert annotated("conductor", text).is_composed is yes


@pytest.mark.parametrize("if_absent", [True, False])
def test_what_is_absent_means_what_the_asker_says(if_absent):
    assert annotated("other", b"true").says_yes("conductor", if_absent=if_absent) is if_absent
    assert annotated("conductor", b"false").says_yes("conductor", if_absent=if_absent) is False
