import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import invoker
import pool
from invoker import errors
from invoker.errors import ANSWERS, answer_of, retry_after_s
from pool import errors as pool_errors
from pool.errors import ActionError, InvokerError, PlatformError, PoolOverloaded, RequestError, TooManyWaiting


def import_everything():
    for package in (invoker, pool):
        for module in pkgutil.iter_modules(package.__path__):
            if module.name != "__main__":
                importlib.import_module(f"{package.__name__}.{module.name}")


def all_errors(root=InvokerError):
    import_everything()
    found, rest = {root}, [root]
    while rest:
        for each in rest.pop().__subclasses__():
            if each not in found:
                found.add(each)
                rest.append(each)
    return sorted(found, key=lambda each: each.__qualname__)


def test_every_error_of_the_tree_has_exactly_one_status_that_fits_its_branch():
    for each in all_errors():
        status = answer_of(each.__new__(each)).status
        if issubclass(each, RequestError):
            assert 400 <= status < 500, each
        elif issubclass(each, (ActionError, PlatformError)):
            # A user's own queue that is full is the user's doing, though the pool says it.
            assert 500 <= status < 600 or issubclass(each, TooManyWaiting), each


def test_every_code_is_kebab_case_and_belongs_to_one_error():
    codes = {}
    for each in all_errors():
        code = vars(each).get("code")
        if code is None:  # a variant that is told apart in Python only
            continue
        assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", code), each
        codes.setdefault(code, []).append(each)
    assert {code: several for code, several in codes.items() if len(several) > 1} == {}


def test_every_request_error_of_this_layer_has_a_row_or_an_ancestor_below_the_branch():
    bare = [
        each
        for each in all_errors(RequestError)
        if each.__module__ == errors.__name__ and not any(a in ANSWERS for a in each.__mro__[: each.__mro__.index(RequestError)])
    ]
    # InvalidRequest and its leaves are 400, as the whole branch is.
    assert all(issubclass(each, errors.InvalidRequest) for each in bare)


def test_a_message_is_the_docstring_unless_one_is_given():
    assert str(errors.EntityNotFound()) == "The requested resource does not exist."
    assert str(errors.EntityNotFound.named("guest/p")) == "The requested resource 'guest/p' does not exist."


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (PoolOverloaded(retry_after_s=7.0), 7.0),
        (errors.Throttled(retry_after_s=42), 42),
        (pool_errors.EngineUnavailable(), 5.0),
        (errors.JournalFull(), 30.0),
        (errors.EntityNotFound(), None),
    ],
)
def test_retry_after_is_the_errors_own_or_the_tables_or_none(error, seconds):
    assert retry_after_s(error) == seconds


def test_the_statuses_that_clients_tell_apart():
    table = {
        errors.Unauthenticated: 401,
        errors.BadCredentials: 401,
        errors.NotAuthorised: 403,
        errors.NoRoute: 404,
        errors.EntityNotFound: 404,
        errors.NotAcceptable: 406,
        errors.BodyTooSlow: 408,
        errors.EntityExists: 409,
        errors.WrongCollection: 409,
        errors.ConcurrentModification: 409,
        errors.IdempotencyConflict: 409,
        errors.TooLarge: 413,
        errors.UnsupportedMediaType: 415,
        errors.Throttled: 429,
        errors.JournalFull: 503,
        pool_errors.PoolOverloaded: 503,
        pool_errors.PoolClosed: 503,
        pool_errors.EngineUnavailable: 503,
        errors.RuntimeNotSupported: 400,
        errors.LimitOutOfRange: 400,
    }
    assert {each: answer_of(each()).status for each in table} == table


def test_the_page_of_reasons_names_none_that_nobody_gives_and_each_with_its_status():
    page = (Path(__file__).parents[2] / "docs/reasons.md").read_text()
    told = re.findall(r"^\| ([a-z-]+) \| (\d+) \|", page, re.MULTILINE)
    given = {(each.code, str(answer_of(each.__new__(each)).status)) for each in all_errors()}
    assert len(told) > 40
    assert set(told) <= given
