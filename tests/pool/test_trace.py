from __future__ import annotations

import pytest

from pool.trace import BadTrace, Call, Function, Trace, parse, render

FUNCTIONS = ["func_name,cold_dur_ms,warm_dur_ms,mem_mb,mean_iat", "a,1500,500,128,1", "b,30,40,256,1"]


def test_calls_are_sorted_and_take_their_functions_time_unless_they_bear_their_own():
    trace = parse(["func_name,invoke_time_ms,run_ms", "b,2000,7", "a,1000,"], FUNCTIONS)
    assert trace.functions == (Function("a", 128, 0.5, 1.0), Function("b", 256, 0.04, 0.0))
    assert trace.calls == (Call(1.0, 0, 0.5), Call(2.0, 1, 0.007))
    assert trace.footprint_mib == 384


def test_what_is_rendered_reads_back_the_same():
    trace = Trace((Function("a", 64, 0.25, 1.5),), (Call(0.5, 0, 0.25), Call(3.0, 0, 0.125)))
    calls, functions = render(trace)
    assert parse(calls.splitlines(), functions.splitlines()) == trace


@pytest.mark.parametrize(
    ("calls", "functions", "says"),
    [
        (["name,when", "a,1"], FUNCTIONS, "calls: the first line must name the columns func_name, invoke_time_ms"),
        (["func_name,invoke_time_ms", "c,1"], FUNCTIONS, "calls, line 2: 'c' is not among the functions"),
        (["func_name,invoke_time_ms", "a,soon"], FUNCTIONS, "calls, line 2: 'soon' is not a number"),
        (["func_name,invoke_time_ms", "a,-1"], FUNCTIONS, "calls, line 2: '-1' is not a number of at least 0"),
        (["func_name,invoke_time_ms"], FUNCTIONS, "calls: there are none"),
        (["func_name,invoke_time_ms", "a,1"], ["func_name,mem_mb", "a,1"], "missing: cold_dur_ms, warm_dur_ms"),
        (["func_name,invoke_time_ms", "a,1"], [FUNCTIONS[0], "a,1,nan,1,1"], "functions, line 2: 'nan'"),
    ],
)
def test_what_cannot_be_read_is_named_by_file_and_line(calls: list[str], functions: list[str], says: str):
    with pytest.raises(BadTrace, match=says):
        parse(calls, functions)
