"""Row LM-01: every combination of limits around their bounds, against the API of a site with OpenWhisk's own."""

import itertools

import pytest

#: Limit: (below, least, default, most, above).
BOUNDS = {
    "timeout": (99, 100, 60_000, 300_000, 300_001),
    "memory": (127, 128, 256, 512, 513),
    "logs": (-1, 0, 10, 10, 11),
    "concurrency": (0, 1, 1, 1, 2),
}
CODE = {"exec": {"kind": "python:3", "code": "def main(args): return args"}}


async def test_LM_01_all_combinations_are_taken_or_refused(site):
    await site.put_hello()
    before = (await site.ask("GET", "actions/hello")).json
    for values in itertools.product(*BOUNDS.values()):
        limits = dict(zip(BOUNDS, values, strict=True))
        fits = all(BOUNDS[name][1] <= value <= BOUNDS[name][3] for name, value in limits.items())
        answer = await site.ask("PUT", "actions/limited?overwrite=true", {**CODE, "limits": limits})
        if fits:
            assert (answer.status, answer.json["limits"]) == (200, limits)
        else:
            assert answer.status == 400, limits
            assert "allowed threshold" in answer.error or limits["logs"] < 0
    assert (await site.ask("GET", "actions/hello")).json == before


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"timeout": 300_001}, "duration 300001 milliseconds exceeds allowed threshold of 300000 milliseconds"),
        ({"timeout": 99}, "duration 99 milliseconds below allowed threshold of 100 milliseconds"),
        ({"memory": 513}, "memory size 513 MB exceeds allowed threshold of 512 MB"),
        ({"memory": 127}, "memory size 127 MB below allowed threshold of 128 MB"),
        ({"logs": 11}, "log size 11 MB exceeds allowed threshold of 10 MB"),
        ({"logs": -1}, "The request content was malformed"),
        ({"concurrency": 2}, "concurrency 2 exceeds allowed threshold of 1"),
        ({"concurrency": 0}, "concurrency 0 below allowed threshold of 1"),
        ({"timeout": "long"}, "The request content was malformed"),
        ({"memory": 128.5}, "whole number"),
    ],
)
async def test_LM_01_what_is_out_of_its_range_is_named_and_changes_nothing(site, limits, words):
    await site.put_hello()
    before = (await site.ask("GET", "actions/hello")).json
    answer = await site.ask("PUT", "actions/hello?overwrite=true", {"limits": limits})
    assert (answer.status, words in answer.error) == (400, True), answer.text
    assert (await site.ask("GET", "actions/hello")).json == before


async def test_LM_01_what_is_not_named_keeps_its_value(site):
    await site.put_hello(limits={"memory": 128, "timeout": 1000})
    answer = await site.ask("PUT", "actions/hello?overwrite=true", {"limits": {"logs": 1}})
    assert answer.json["limits"] == {"timeout": 1000, "memory": 128, "logs": 1, "concurrency": 1}


async def test_LM_04_the_longest_time_limit_is_five_minutes(site):
    await site.put_hello(limits={"timeout": 300_000})
    answer = await site.ask("PUT", "actions/hello?overwrite=true", {"limits": {"timeout": 300_001}})
    assert (answer.status, "allowed threshold" in answer.error) == (400, True)
