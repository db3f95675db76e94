"""`invokerctl action map`: one call for each line of a file, several at a time, and what all of them came to."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any

import click

from invoker.commands.cli import examples
from invoker.commands.ctl_client import Client, Exit, Failure, refusal
from invoker.commands.ctl_code import action_path, make_parameters
from invoker.commands.ctl_options import parameter_options, user_verb
from invoker.commands.ctl_output import annotation_of, print_json, progress

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor
    from pathlib import Path

    from invoker.commands.ctl_context import Target

_ACTIVATION = "/api/v1/namespaces/_/activations/"
#: Calls that may be sent before the first of them has ended, for each that runs: results are printed in the order of lines.
_AHEAD = 50
#: Failed calls that are named at the end.
_NAMED = 10
#: Longest wait for a node that is busy, s, and what is waited where it does not say how long.
_LONGEST_PAUSE_S, _PAUSE_S = 30.0, 1.0


@click.command(
    "map",
    epilog=examples(
        "ls /data/run7/*.h5 | invokerctl action map find --as path >results.jsonl",
        "invokerctl action map find inputs.jsonl --jobs 16 -p threshold 4.5",
    ),
)
@click.argument("name")
@click.argument("file", type=click.File(encoding="utf-8"), default="-")
@click.option("--as", "key", metavar="KEY", help="Lines are texts, given as parameter KEY. Default: lines are JSON objects.")
@click.option("--jobs", type=click.IntRange(1, 256), default=8, show_default=True, help="Calls at a time.")
@parameter_options
@user_verb
def action_map(
    target: Target,
    *,
    name: str,
    file: IO[str],
    key: str | None,
    jobs: int,
    params: tuple[tuple[str, str], ...],
    param_file: Path | None,
    as_json: bool,
) -> None:
    """Invoke action NAME once for each line of FILE, or of standard input.

    Prints a line of JSON for each, in the order of the input: `line`, `activationId`, `success`, `outcome`, `result`. At the end
    it says on standard error how many failed, which, and what all of it cost. A node that is busy is waited for. Exits with 4
    when one failed.
    """
    del as_json  # it is JSON anyway
    from concurrent.futures import ThreadPoolExecutor

    caller = _Caller(target.user(), action_path(name), make_parameters(params, param_file), key)
    sum_ = _Sum()
    with ThreadPoolExecutor(jobs) as pool, progress() as show:
        try:
            for ended in _in_order(pool, caller.call, enumerate(file, 1), jobs * _AHEAD):
                if ended is not None:
                    print_json(ended.line_of_json())
                    sum_.add(ended)
                    show(sum_.text())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    click.echo(f"invokerctl: {sum_.text()}", err=True)
    for ended in sum_.failures[:_NAMED]:
        told = str(ended.result.get("error", "") if isinstance(ended.result, dict) else "")[:200]
        click.echo(f"  line {ended.line}: {ended.outcome}: {told}  (invokerctl activation logs {ended.activation_id})", err=True)
    if len(sum_.failures) > _NAMED:
        click.echo(f'  and {len(sum_.failures) - _NAMED} more: those with "success": false', err=True)
    if sum_.failures:
        sys.exit(Exit.ACTION_FAILED)


@dataclass(frozen=True, slots=True)
class _Ended:
    """One call that has ended.

    Attributes:
        line: of the input, from 1.
        cost: amount and currency; None where the record tells none.
    """

    line: int
    activation_id: str
    success: bool
    outcome: str
    result: Any
    cost: tuple[str, str] | None

    def line_of_json(self) -> dict[str, Any]:
        return {
            "line": self.line,
            "activationId": self.activation_id,
            "success": self.success,
            "outcome": self.outcome,
            "result": self.result,
        }


@dataclass(slots=True)
class _Sum:
    """What the calls came to so far."""

    calls: int = 0
    failures: list[_Ended] = field(default_factory=list)
    #: By currency.
    costs: dict[str, Decimal] = field(default_factory=dict)

    def add(self, ended: _Ended) -> None:
        self.calls += 1
        if not ended.success:
            self.failures.append(ended)
        if ended.cost is not None:
            from invoker.record.rating import add

            amount, currency = ended.cost
            self.costs[currency] = add((self.costs.get(currency, Decimal(0)), Decimal(amount)))

    def text(self) -> str:
        from invoker.record.rating import plain

        costs = "".join(f", {plain(amount)} {currency}" for currency, amount in self.costs.items())
        return f"{self.calls} call{'' if self.calls == 1 else 's'}, {len(self.failures)} failed{costs}"


class _Caller:
    """Calls one action again and again, from several threads.

    Args:
        client: of the API; it opens a connection for each request.
        path: of the action.
        common: parameters of each call; a line's own go before them.
        key: parameter that a line is the value of; None: a line is an object.
    """

    def __init__(self, client: Client, path: str, common: dict[str, Any], key: str | None) -> None:
        self._client = client
        self._path = path
        self._common = common
        self._key = key

    def call(self, numbered: tuple[int, str]) -> _Ended | None:
        """Make the call of one line, and wait for its end; None for an empty line.

        Raises:
            Failure: the line is no JSON object, or the call was refused.
        """
        number, text = numbered
        text = text.rstrip("\r\n")
        if not text.strip():
            return None
        body = json.dumps(self._common | self._parameters(number, text)).encode()
        record = self._invoke(body)
        response, cost = record["response"], annotation_of(record, "cost")
        return _Ended(
            line=number,
            activation_id=record["activationId"],
            success=response["success"],
            outcome=str(annotation_of(record, "outcome") or response["status"]),
            result=response.get("result"),
            cost=(cost["amount"], cost["currency"]) if cost else None,
        )

    def _parameters(self, number: int, text: str) -> dict[str, Any]:
        if self._key is not None:
            return {self._key: text}
        try:
            value = json.loads(text)
        except ValueError as error:
            raise Failure(f"line {number} is no JSON: {error}", Exit.USAGE, "or give --as KEY: lines are texts then") from error
        if not isinstance(value, dict):
            raise Failure(f"line {number} is no JSON object", Exit.USAGE, "or give --as KEY: lines are texts then")
        return value

    def _invoke(self, body: bytes) -> dict[str, Any]:
        """Call, and come back as often as a busy node asks for it."""
        while True:
            reply = self._client.request("POST", self._path, query={"blocking": "true"}, body=body)
            if reply.status == 202:
                return self._wait_for(reply.json()["activationId"])
            answer = reply.json()
            if isinstance(answer, dict) and "response" in answer:
                return answer
            if reply.status not in (429, 503):
                raise refusal(reply, self._path)
            time.sleep(_pause_s(reply.headers.get("retry-after", "")))

    def _wait_for(self, activation_id: str) -> dict[str, Any]:
        """Wait for the record of a call that takes longer than a blocking one may."""
        while True:
            reply = self._client.request("GET", _ACTIVATION + activation_id)
            if reply.status == 200:
                record: dict[str, Any] = reply.json()
                return record
            if reply.status != 404:
                raise refusal(reply)
            time.sleep(_PAUSE_S)


def _pause_s(text: str) -> float:
    return min(float(text), _LONGEST_PAUSE_S) if text.isascii() and text.isdigit() else _PAUSE_S


def _in_order(
    pool: ThreadPoolExecutor,
    call: Callable[[tuple[int, str]], _Ended | None],
    lines: Iterable[tuple[int, str]],
    ahead: int,
) -> Iterator[_Ended | None]:
    """Give the ends of calls in the order of their lines, while up to `ahead` of them are under way."""
    waiting: deque[Future[_Ended | None]] = deque()
    for line in lines:
        waiting.append(pool.submit(call, line))
        while waiting and (waiting[0].done() or len(waiting) >= ahead):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
