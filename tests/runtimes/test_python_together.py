"""The Python runtime where several activations may run side by side in one process: `async def main` does, nothing else."""

from __future__ import annotations

import time

import pytest
from meeting import MEET

ALLOWED = {"__OW_ALLOW_CONCURRENT": "true"}
#: Answers once `wanted` activations are there at the same time; each writes in every way that can be told apart.
TOGETHER = (
    MEET
    + """
import logging, sys
logging.basicConfig(format="%(message)s")

async def main(args):
    n = args["n"]
    print("begins", n, end="")
    await meet(args["wanted"])
    print(" and ends", n)
    logging.warning("logged %d", n)
    await asyncio.gather(helper(n))
    await asyncio.to_thread(print, "thread", n)
    return {"n": n}

async def helper(n):
    sys.stdout.buffer.write(b"bytes %d\\n" % n)
"""
)
PLAIN = """
def main(args):
    return {"plain": args}
"""


@pytest.fixture
def together(start):
    process = start("python", **ALLOWED)
    answer = process.init(TOGETHER)
    assert answer.status == 200, answer.body
    return process


def send_runs(process, arguments):
    """One connection each: the answers in the order of the arguments."""
    clients = [process.connect() for _ in arguments]
    for index, (client, value) in enumerate(zip(clients, arguments, strict=True)):
        client.send("/run", {"value": value, "activation_id": f"{index + 1:032x}"})
    return [client.read() for client in clients]


def test_a_line_whose_end_does_not_come_is_told_as_it_is_so_far_to_its_activation(together):
    one, two = together.connect(), together.connect()
    one.send("/run", {"value": {"n": 1, "wanted": 2}, "activation_id": f"{1:032x}"})
    together.pipe.wait_unfinished(f"{1:032x}", b"begins 1")
    two.send("/run", {"value": {"n": 2, "wanted": 2}, "activation_id": f"{2:032x}"})
    for n, client in enumerate((one, two), start=1):
        assert together.logs(client.read(), activation=f"{n:032x}")[0] == f"begins {n} and ends {n}"


def test_a_coroutine_whose_connection_is_closed_is_cancelled_and_the_others_go_on(start, tmp_path):
    process = start("python", **ALLOWED)
    code = (
        "import asyncio\nseen = []\nasync def main(args):\n    if 'wait' not in args:\n        return {'seen': seen}\n"
        "    print('waits')\n    try:\n        await asyncio.sleep(60)\n    finally:\n        seen.append(args['wait'])\n"
    )
    assert process.init(code).status == 200
    lost, kept = process.connect(), process.connect()
    for index, client in enumerate((lost, kept), start=1):
        client.send("/run", {"value": {"wait": index}, "activation_id": f"{index:032x}"})
        process.pipe.wait(f"{index:032x}", 1)
    lost.socket.close()
    deadline = time.monotonic() + 20
    while (seen := process.run().json["seen"]) == [] and time.monotonic() < deadline:
        pass
    assert seen == [1]


def test_coroutines_run_at_the_same_time_and_each_line_belongs_to_who_wrote_it(together):
    answers = send_runs(together, [{"n": n, "wanted": 4} for n in range(4)])
    assert [answer.json for answer in answers] == [{"n": n} for n in range(4)]
    for n, answer in enumerate(answers):
        name = f"{n + 1:032x}"
        assert together.logs(answer, activation=name) == [f"begins {n} and ends {n}", f"bytes {n}", f"thread {n}"]
        assert together.logs(answer, "e", activation=name) == [f"logged {n}"]
        assert answer.frames == (4, 0)
    assert not together.pipe.rejected


def test_the_answer_to_init_says_whether_the_code_takes_one_at_a_time(start):
    for code, environment, takes in ((TOGETHER, ALLOWED, None), (PLAIN, ALLOWED, "1"), (TOGETHER, {}, "1")):
        answer = start("python", **environment).init(code)
        assert (answer.status, answer.headers.get("x-invokerd-takes")) == (200, takes)


def test_a_coroutine_runs_where_activations_come_one_at_a_time_always_in_the_same_loop(start):
    process = start("python")
    code = """
import asyncio
lock = asyncio.Lock()
async def main(args):
    async with lock:
        await asyncio.sleep(0)
        return {"loop": id(asyncio.get_running_loop()), "n": args["n"]}
"""
    assert process.init(code).status == 200
    answers = [process.run({"n": n}) for n in range(3)]
    assert [answer.json["n"] for answer in answers] == [0, 1, 2]
    assert len({answer.json["loop"] for answer in answers}) == 1


def test_plain_functions_run_in_turn_whatever_is_allowed(start):
    process = start("python", **ALLOWED)
    code = """
import time
running = 0
def main(args):
    global running
    running += 1
    time.sleep(0.02)
    print("seen", running)
    running -= 1
    return {}
"""
    process.init(code)
    for index, answer in enumerate(send_runs(process, [{}] * 4)):
        assert process.logs(answer, activation=f"{index + 1:032x}") == ["seen 1"]


@pytest.mark.parametrize(
    ("statement", "status", "body"),
    [
        ("raise ValueError('no')", 200, {"error": "no"}),
        ("sys.exit(3)", 400, {"error": "command exited: SystemExit: 3"}),
        ("raise asyncio.CancelledError", 400, {"error": "command exited: CancelledError: "}),
        ("return 7", 502, {"error": "The action did not return a dictionary or array."}),
    ],
)
def test_what_goes_wrong_in_one_of_them_is_its_own_and_the_others_end_well(start, statement, status, body):
    process = start("python", **ALLOWED)
    process.init(f"""
import asyncio, sys
gate = asyncio.Event()
async def main(args):
    if args["n"]:
        gate.set()
        {statement}
    await gate.wait()
    return {{"well": True}}
""")
    well, wrong = send_runs(process, [{"n": 0}, {"n": 1}])
    assert (wrong.status, wrong.json) == (status, body)
    assert (well.status, well.json) == (200, {"well": True})
    assert send_runs(process, [{"n": 0}])[0].json == {"well": True}


def test_rubbish_and_a_second_init_are_refused_while_another_runs(together):
    first = together.connect()
    first.send("/run", {"value": {"n": 0, "wanted": 2}, "activation_id": "a" * 32})
    assert together.init(PLAIN).status == 403
    assert together.client.post("/run", b"{").status == 400
    assert together.client.post("/run", {"value": 7}).status == 404
    assert together.client.get("/").status == 200
    assert together.run({"n": 1, "wanted": 2}).json == {"n": 1}
    assert first.read().json == {"n": 0}


def test_requests_that_came_before_the_loop_began_and_behind_each_other_are_answered_in_order(start):
    process = start("python", **ALLOWED)
    code = "async def main(args):\n    return args\n"
    early = process.connect()
    process.client.send("/init", {"value": {"code": code, "main": "main"}})
    for n in range(3):
        process.client.send("/run", {"value": {"n": n}})
    early.send("/run", {"value": {"n": "early"}})
    assert process.client.read().status == 200
    assert [process.client.read().json for _ in range(3)] == [{"n": n} for n in range(3)]
    assert early.read().status in {200, 500}, "it may have come before the code"


def test_without_a_pipe_each_run_ends_with_sentinels(start):
    process = start("python", piped=False, **ALLOWED)
    process.init(TOGETHER)
    answers = send_runs(process, [{"n": n, "wanted": 3} for n in range(3)])
    assert [answer.status for answer in answers] == [200] * 3
    deadline = time.monotonic() + 20
    while process.out.read_text().count("XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX\n") < 3:
        assert time.monotonic() < deadline, process.out.read_text()
        time.sleep(0.01)


def test_what_is_printed_while_a_line_is_being_written_stops_nothing(start):
    """A signal's handler, or the collector of garbage, may run in the middle of our own write."""
    process = start("python", **ALLOWED)
    process.init("""
import signal

async def main(args):
    handled = 0
    def handle(*_):
        nonlocal handled
        handled += 1
        print("signal")
    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    count = 0
    while handled < 100:
        print("line")
        count += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    return {"lines": count, "signals": handled}
""")
    answer = send_runs(process, [{}])[0]
    if answer.frames[1] == 0:  # else the pipe was full
        # `print` writes a text and its newline apart: the handler may come between.
        text = " ".join(process.logs(answer, activation=f"{1:032x}"))
        assert (text.count("line"), text.count("signal")) == (answer.json["lines"], answer.json["signals"])
