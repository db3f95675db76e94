import functools
import json
import os
import subprocess

import pytest

from invoker.errors import MalformedContent, TooLarge
from invoker.http.apart import APART_FROM_BYTES, Apart
from invoker.http.bodies import parse_action, parse_package
from invoker.http.sizes import check_action_sizes

LONG = APART_FROM_BYTES


def action(code: str, **fields: object) -> bytes:
    return json.dumps({"exec": {"kind": "python:3", "main": "é", "code": code}, **fields}, ensure_ascii=False).encode()


async def test_a_long_body_is_read_in_another_process_and_a_short_one_here():
    pid = b"__import__('os').getpid()"
    assert await Apart().read(eval, None, pid.ljust(LONG - 1)) == os.getpid()
    assert await Apart().read(eval, None, pid.ljust(LONG)) != os.getpid()


@pytest.mark.parametrize("code", ["QUJD" * (LONG // 4), 'é 😀 "\n' * (LONG // 8), " " * LONG])
async def test_what_is_read_apart_is_what_is_read_here(code):
    sent = action(code, parameters=[{"key": "a", "value": {"x": 1.10}}], annotations=[{"key": "b", "value": None}])
    read = await Apart().read(parse_action, functools.partial(check_action_sizes, code_bytes=len(sent)), sent)
    assert read == parse_action(sent)
    assert read.code.utf8.decode() == code


async def test_without_long_strings_it_is_the_same():
    sent = json.dumps({"unknown": "x" * LONG, "publish": True}).encode()
    assert await Apart().read(parse_package, None, sent) == parse_package(sent)


@pytest.mark.parametrize(
    ("sent", "code_bytes", "error"),
    [
        (action("x" * LONG), LONG, TooLarge),
        (action("x" * LONG)[:-1], 2 * LONG, MalformedContent),
        (action("x" * LONG, parameters=[{"key": 1}]), 2 * LONG, MalformedContent),
        (action("x" * LONG).replace(b"x" * 9, b"xxxx\xffxxxx", 1), 2 * LONG, MalformedContent),
    ],
)
async def test_what_is_refused_apart_is_refused_in_the_same_words_as_here(sent, code_bytes, error):
    check = functools.partial(check_action_sizes, code_bytes=code_bytes)
    with pytest.raises(error) as here:
        check(parse_action(sent))
    with pytest.raises(error) as there:
        await Apart().read(parse_action, check, sent)
    assert str(there.value) == str(here.value)


async def test_a_process_that_fails_is_an_error_and_no_descriptor_stays():
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(subprocess.CalledProcessError):
        await Apart().read(eval, None, b"1 / 0".ljust(LONG))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
