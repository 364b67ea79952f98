import json

import pytest

from detrex_lite.cli import main

from .configs import TINY


def test_the_parts_are_printed_and_written_as_json(tmp_path, capsys):
    file = tmp_path / "sizes.json"
    sizes = ["--height", "8", "--width", "8"]
    assert main(["benchmark", "analyze", *sizes, TINY, "model.num_classes=5", "--json", str(file)]) == 0
    assert "TinyDetector, one image of 8x8" in capsys.readouterr().out
    stored = json.loads(file.read_text())
    assert stored["parts"][0]["flops"] == 2 * (3 * 8 + 8 * 9)
    assert stored["flops_per_multiply_accumulate"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py"], "there is no config file 'nowhere.py'"),
        ([TINY, "model.num_clases=5"], "num_classes"),
        ([TINY, "--height", "0"], "height must be 1 or more, got 0"),
        ([TINY, "--json", "nowhere/sizes.json"], "there is no folder"),
    ],
)
def test_errors_are_printed_without_a_traceback(arguments, message, capsys):
    assert main(["benchmark", "analyze", *arguments]) == 2
    assert message in capsys.readouterr().err
