import pytest
import torch

from detrex_lite.tools.benchmark.machine import machine_facts
from detrex_lite.tools.benchmark.stages import StagesReport
from detrex_lite.tools.benchmark.timing import Timing


def report(**changes):
    timings = {"whole": Timing((0.5, 0.3, 0.4)), "first": Timing((0.2, 0.1, 0.3)), "second": Timing((0.3, 0.2, 0.1))}
    facts = machine_facts(torch.device("cpu"))
    return StagesReport(title="A title", machine=facts, settings={}, timings=timings, **{"whole": "whole", **changes})


def test_shares_are_of_the_sum_of_the_whole():
    one = report(rates={"images/s": 12.3456})
    assert one.share("first") == pytest.approx(0.5)
    assert one.share("whole") is None
    text = str(one)
    assert "A title" in text
    assert "images/s: 12.35" in text
    (line,) = [line for line in text.splitlines() if line.startswith("first")]
    assert line.split() == ["first", "200", "100", "300", "100", "300", "50%"]


def test_parts_without_a_whole_have_no_shares():
    one = report(whole=None)
    assert {row["share"] for row in one.as_json()["rows"]} == {None}
    assert "%" not in str(one).splitlines()[-1]


def test_everything_is_in_the_json():
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


def test_one_round_has_no_spread():
    one = report()
    one.timings = {"whole": Timing((0.25,))}
    assert str(one).splitlines()[-1].split() == ["whole", *["250"] * 5]
