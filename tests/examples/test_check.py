"""The judge of the hit finder: it counts what it says it counts, and names what is wrong."""

import json
from pathlib import Path

import pytest
from hitfinder import check


def planted(*places: tuple[float, float], snr: float = 20.0, edge: bool = False) -> list[dict]:
    return [{"fs": fs, "ss": ss, "snr": snr, "edge": edge, "intensity": 100.0} for fs, ss in places]


def found(*places: tuple[float, float]) -> list[dict]:
    return [{"fs": fs, "ss": ss} for fs, ss in places]


def frame(peaks: list[dict], *, file: str = "f.h5", hit: bool = True) -> dict:
    return {"file": file, "event": 0, "hit": hit, "peaks": peaks}


def result(peaks: list[dict], *, file: str = "f.h5", hit: bool = True) -> dict:
    return {"path": f"/data/{file}", "event": 0, "hit": hit, "peaks": peaks}


def test_a_peak_is_right_within_one_and_a_half_pixels():
    assert check.match(found((10.0, 11.4)), planted((10.0, 10.0))) == {0: (0, pytest.approx(1.4))}
    assert check.match(found((11.1, 11.1)), planted((10.0, 10.0))) == {}


def test_pairs_are_one_to_one_and_the_nearest_win():
    both = check.match(found((10.0, 10.0), (10.9, 10.0)), planted((10.2, 10.0)))
    assert both == {0: (0, pytest.approx(0.2))}
    crossed = check.match(found((10.0, 10.0), (11.0, 10.0)), planted((10.9, 10.0), (9.9, 10.0)))
    assert {index: pair[0] for index, pair in crossed.items()} == {0: 1, 1: 0}


def test_weak_and_edge_peaks_count_when_found_and_not_when_missed():
    truth = frame(planted((10, 10)) + planted((30, 30), snr=5.0) + planted((50, 50), edge=True))
    missed, all_found = (
        check.score_frame(result(found((10, 10))), truth),
        check.score_frame(result(found((10, 10), (30, 30), (50, 50))), truth),
    )
    assert (missed.visible, missed.recalled, missed.found, missed.right) == (1, 1, 1, 1)
    assert (all_found.visible, all_found.recalled, all_found.found, all_found.right) == (1, 1, 3, 3)


def test_recall_and_precision_are_shares_of_the_whole_run():
    places = [(20.0 * n, 20.0) for n in range(10)]
    truth = {"frames": [frame(planted(*places)), frame(planted(*places), file="g.h5")]}
    run = check.score_run([result(found(*places)), result(found(*places[:5], (500, 500)), file="g.h5")], truth)
    assert run.recall == pytest.approx(15 / 20)
    assert run.precision == pytest.approx(15 / 16)
    assert run.false_peaks == 1
    assert any("recall 0.7500 of 20 visible peaks" in failure and "g.h5:0: 5 of 10" in failure for failure in run.failures)
    assert any("precision 0.9375 of 16 found peaks" in failure and "g.h5:0: 1" in failure for failure in run.failures)


def test_hits_without_crystal_and_blanks_with_one_are_named():
    places = [(20.0 * n, 20.0) for n in range(25)]
    truth = {"frames": [frame([], hit=False), frame(planted(*places), file="g.h5")]}
    run = check.score_run([result([]), result(found(*places), file="g.h5", hit=False)], truth)
    assert any(failure.startswith("f.h5:0: called a hit") for failure in run.failures)
    assert any(failure.startswith("g.h5:0: called a blank") for failure in run.failures)


def test_missing_results_and_errors_are_failures_in_their_own_words():
    truth = {"frames": [frame([], hit=False), frame([], file="g.h5", hit=False)]}
    run = check.score_run([{"path": "f.h5", "event": 0, "error": "f.h5 is truncated"}], truth)
    assert run.failures == ["f.h5:0: f.h5 is truncated", "g.h5:0: no result"]


def test_a_run_without_peaks_is_perfect():
    run = check.score_run([result([], hit=False)], {"frames": [frame([], hit=False)]})
    assert (run.recall, run.precision, run.position_rms_px, run.failures) == (1.0, 1.0, 0.0, [])


def test_command_line_judges_results(tmp_path: Path, capsys):
    (tmp_path / "truth.json").write_text(json.dumps({"frames": [frame(planted((10, 10)))]}))
    (tmp_path / "good.jsonl").write_text(json.dumps(result(found((10, 10)))) + "\n")
    (tmp_path / "bad.jsonl").write_text(json.dumps(result([])) + "\n")
    assert check.main(["results", str(tmp_path / "truth.json"), str(tmp_path / "good.jsonl")]) == 0
    assert "recall 100.00% of 1" in capsys.readouterr().out
    assert check.main(["results", str(tmp_path / "truth.json"), str(tmp_path / "bad.jsonl")]) == 1
    assert "FAILED recall 0.0000" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        check.main(["results", str(tmp_path / "no.json"), str(tmp_path / "bad.jsonl")])
