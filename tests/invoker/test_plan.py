"""Plans: what of an action, and of who calls it, decides how its containers are made and what they are told."""

import msgspec
import pytest
from invoker_site import ANNA, action, site

from invoker.model import Annotation


@pytest.mark.parametrize(
    ("text", "given"),
    [
        (None, True),
        (b"true", True),
        (b"false", False),
        (b"1", True),
        (b"0", False),
        (b'"yes"', True),
        (b'"false"', True),
        (b'""', False),
        (b"null", False),
        (b"{}", True),
        (b"[]", True),
    ],
)
async def test_the_key_is_given_where_its_annotation_is_absent_or_means_yes(tmp_path, text, given):
    annotations = () if text is None else (Annotation(key="provide-api-key", value=msgspec.Raw(text)),)
    async with site(tmp_path) as s:
        plan = await s.planner.make(ANNA, action(annotations=annotations))
        assert plan.gives_api_key is given


async def test_a_plan_is_made_once_for_a_revision_and_anew_for_the_next(tmp_path):
    async with site(tmp_path) as s:
        first = action(revision="1")
        assert s.planner.find(ANNA, first) is None
        plan = await s.planner.make(ANNA, first)
        assert s.planner.find(ANNA, first) is plan
        assert s.planner.find(ANNA, action(revision="2")) is None
        s.planner.forget()
        assert s.planner.find(ANNA, first) is None
