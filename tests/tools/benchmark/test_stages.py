import pytest
import torch

from detrex_lite.tools.benchmark.machine import machine_facts
from detrex_lite.tools.benchmark.stages import StagesReport
from detrex_lite.tools.benchmark.timing import Timing


def report(**changes):
    timings = {"whole": Timing((0.5, 0.3, 0.4)), "first": Timing((0.2, 0.1, 0.3)), "second": Timing((0.3, 0.2, 0.1))}
    facts = machine_facts(torch.device("cpu"))
    return StagesReport(title="A title", machine=facts, settings={}, timings=timings, **{"whole": "whole", **changes})


def test_percentages_are_of_the_total_of_the_whole():
    stages_report = report(rates={"images/s": 12.3456})
    assert stages_report.share("first") == pytest.approx(0.5)
    assert stages_report.share("whole") is None
    text = str(stages_report)
    assert "A title" in text
    assert "images/s: 12.35" in text
    (line,) = [line for line in text.splitlines() if line.startswith("first")]
    assert line.split() == ["first", "200", "100", "300", "100", "300", "50%"]


def test_parts_without_a_whole_have_no_percentages():
    stages_report = report(whole=None)
    assert {row["share"] for row in stages_report.as_json()["rows"]} == {None}
    assert "%" not in str(stages_report).splitlines()[-1]


def test_the_json_has_all_timings_and_notes():
    (row, *_) = report(notes=["A note."]).as_json()["rows"]
    assert row == {
        "part": "whole",
        "median": 0.4,
        "lowest": 0.3,
        "highest": 0.5,
        "share": None,
        "seconds": [0.5, 0.3, 0.4],
    }
    assert report(notes=["A note."]).as_json()["notes"] == ["A note."]


def test_a_single_round_has_equal_extremes():
    stages_report = report()
    stages_report.timings = {"whole": Timing((0.25,))}
    assert str(stages_report).splitlines()[-1].split() == ["whole", *["250"] * 5]
