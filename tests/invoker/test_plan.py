"""Plans: what of an action, and of who calls it, decides how its containers are made and what they are told."""

import dataclasses

import msgspec
import pytest
from invoker_site import ANNA, action, error_of, site

from invoker.activation import Status
from invoker.config.model import LimitsConfig
from invoker.model import Annotation, Limits


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


async def test_what_makes_a_container_another_one_makes_another_key(tmp_path):
    """Made anew under its old name an action has its old version, and another revision."""
    async with site(tmp_path) as s:

        async def key(namespace=ANNA, **changes):
            return (await s.planner.make(namespace, action(**({"revision": "1"} | changes)))).key

        first = await key()
        assert await key() == first
        others = [
            await key(revision="2"),
            await key(revision="3", limits=Limits(memory=512)),
            await key(msgspec.structs.replace(ANNA, uid=1002), revision="4"),
            await key(msgspec.structs.replace(ANNA, groups=(7,)), revision="5"),
        ]
        assert len({each.digest for each in (first, *others)}) == 5
        assert len({each.spec.digest for each in (first, *others[1:])}) == 4, "nor do they share stem cells"


def with_limits(**limits):
    return action(revision=str(limits), limits=Limits(**limits))


async def test_an_action_that_asks_for_more_than_the_site_allows_by_now_is_an_application_error(tmp_path):
    async with site(tmp_path) as s:
        kept = with_limits(memory=512, timeout=1000, logs=3, concurrency=2)
        assert (await s.run(kept)).status is Status.SUCCESS
        lower = LimitsConfig(result_bytes=2000, memory_max_mib=256, timeout_max_ms=500, logs_max_mib=2, concurrency_max=1)
        s.config = dataclasses.replace(s.config, limits=lower)
        s.planner.forget()
        for changes, sentence in (
            ({"memory": 512}, "The action's memory limit of 512 MB exceeded the system limit of 256 MB."),
            ({"timeout": 501}, "The action's time limit of 501 milliseconds exceeded the system limit of 500 milliseconds."),
            ({"logs": 3}, "The action's log limit of 3 MB exceeded the system limit of 2 MB."),
            ({"concurrency": 2}, "The action's concurrency limit of 2 exceeded the system limit of 1."),
        ):
            done = await s.run(with_limits(**({"memory": 256, "timeout": 500, "logs": 2} | changes)))
            assert (done.status, done.meter.outcome) == (Status.APPLICATION_ERROR, "limits-lowered")
            assert error_of(done) == sentence
        assert (await s.run(with_limits(memory=256, timeout=500, logs=2))).status is Status.SUCCESS


async def test_what_is_more_than_the_whole_pool_is_the_pools_to_refuse(tmp_path):
    async with site(tmp_path) as s:
        done = await s.run(with_limits(memory=4096))
        assert (done.status, done.meter.outcome) == (Status.APPLICATION_ERROR, "memory-never-available")
