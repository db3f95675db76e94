import ast
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
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


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


PAGE = Path(__file__).parents[2] / "docs/reasons.md"


def codes_of_the_tree():
    """Collect the code of every error that has one of its own, with its status. The branches themselves are never raised."""
    leaves = [each for each in all_errors() if "code" in vars(each) and each not in {RequestError, ActionError, PlatformError}]
    return {vars(each)["code"]: str(answer_of(each.__new__(each)).status) for each in leaves}


def test_the_page_of_reasons_has_every_code_of_the_tree_once_with_its_status():
    page = PAGE.read_text()
    answered = re.findall(r"^\| ([a-z-]+) \| (\d+) \| (.+) \|$", page, re.MULTILINE)
    in_the_log = re.findall(r"`([a-z-]+)`", page[page.index("These end the daemon") :])
    listed = [code for code, _, _ in answered] + in_the_log
    codes = codes_of_the_tree()
    assert sorted(listed) == sorted(codes), "docs/reasons.md and the error tree do not have the same codes"
    assert {code: status for code, status, _ in answered} == {code: codes[code] for code, _, _ in answered}


def outcomes_of_the_source():
    """Collect what the source gives for an outcome where there is no error: reasons that are written out."""
    found = set()
    for path in Path(invoker.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                given = [each.value for each in node.keywords if each.arg in {"reason", "outcome"}]
                given += node.args[{"failure": 2, "_fail": 3}.get(name, len(node.args)) :][:1]
                found |= {each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)}
    return found


def test_the_page_of_reasons_has_every_outcome_that_is_no_error():
    page = PAGE.read_text()
    intro = page[: page.index("| reason |")]
    listed = set(re.findall(r"`([a-z-]+)`", intro))
    given = outcomes_of_the_source()
    assert {"timeout", "crashed", "cancelled", "sequence-too-long"} <= given, "what the source gives is found"
    assert given - set(codes_of_the_tree()) <= listed


def test_the_table_of_errors_has_no_reason_but_codes_and_outcomes():
    rows = [line.split(" | ") for line in PAGE.with_name("errors.md").read_text().splitlines() if line.startswith("| ")]
    table = [row for row in rows if len(row) == 7 and row[2].isdigit()]
    assert len(table) > 30
    assert {row[4] for row in table} <= set(codes_of_the_tree()) | outcomes_of_the_source() | {"ok"}
