import itertools

import msgspec
import pytest

from invoker.config.model import LimitsConfig
from invoker.errors import LimitOutOfRange
from invoker.http.limits import check_action_limits, default_limits
from invoker.model import Limits

OPENWHISK = LimitsConfig.of_profile("openwhisk", concurrency_max=5)


def test_the_defaults_are_the_sites():
    assert default_limits(OPENWHISK) == Limits(timeout=60_000, memory=256, logs=10, concurrency=1)


def test_every_combination_of_limits_is_refused_exactly_when_one_is_out_of_range():
    cases = {
        "timeout": ((99, 300_001), (100, 60_000, 300_000)),
        "memory": ((127, 513), (128, 256, 512)),
        "logs": ((11,), (0, 10)),
        "concurrency": ((0, 6), (1, 5)),
    }
    for values in itertools.product(*(bad + good for bad, good in cases.values())):
        limits = Limits(**dict(zip(cases, values, strict=True)))
        if any(value in cases[name][0] for name, value in zip(cases, values, strict=True)):
            with pytest.raises(LimitOutOfRange, match="allowed threshold"):
                check_action_limits(limits, OPENWHISK, 30)
        else:
            check_action_limits(limits, OPENWHISK, 30)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"timeout": 300_001}, "duration 300001 milliseconds exceeds allowed threshold of 300000 milliseconds"),
        ({"timeout": 99}, "duration 99 milliseconds below allowed threshold of 100 milliseconds"),
        ({"memory": 513}, "memory size 513 MB exceeds allowed threshold of 512 MB"),
        ({"memory": 127}, "memory size 127 MB below allowed threshold of 128 MB"),
        ({"logs": 11}, "log size 11 MB exceeds allowed threshold of 10 MB"),
        ({"concurrency": 6}, "concurrency 6 exceeds allowed threshold of 5"),
        ({"concurrency": 0}, "concurrency 0 below allowed threshold of 1"),
        ({"instances": 31}, "instances 31 must not exceed the namespace concurrency of 30 invocations"),
    ],
)
def test_the_sentence_has_the_words_that_clients_look_for(change, sentence):
    with pytest.raises(LimitOutOfRange) as refused:
        check_action_limits(msgspec.structs.replace(default_limits(OPENWHISK), **change), OPENWHISK, 30)
    assert str(refused.value) == sentence


def test_no_instances_are_allowed():
    check_action_limits(msgspec.structs.replace(default_limits(OPENWHISK), instances=0), OPENWHISK, 30)
