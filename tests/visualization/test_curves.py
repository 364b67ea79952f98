import json
import math
import subprocess
import sys

import pytest
from PIL import Image

from detrex_lite.visualization import plot_curves
from detrex_lite.visualization.curves import read_metrics


def write(path, entries, tail=""):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + tail)
    return path


def training_line(iteration):
    loss = 5 / iteration
    parts = {"loss_class": loss, "loss_bbox": 2 * loss, "loss_bbox_0": loss, "loss_giou_enc": loss}
    return {"iteration": iteration, "total_loss": 3 * loss, **parts, "lr": 1e-4, "time": 0.1}


def evaluation_line(iteration):
    return {"iteration": iteration, "bbox/AP": 10.0 * iteration, "bbox/AP50": math.nan}


def height_of(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 500
        return image.height


def test_all_panels_are_drawn_and_only_those_with_data(tmp_path):
    lines = [training_line(i) for i in range(1, 9)]
    everything = write(tmp_path / "all.jsonl", [*lines, evaluation_line(8)])
    no_evaluation = write(tmp_path / "training.jsonl", lines)
    only_evaluation = write(tmp_path / "evaluation.jsonl", [evaluation_line(8)])
    four = height_of(plot_curves(everything, tmp_path / "new" / "curves.png"))
    assert (tmp_path / "new" / "curves.png").exists()
    assert four == height_of(plot_curves(no_evaluation, tmp_path / "three.png"))
    one = plot_curves(only_evaluation, tmp_path / "one.png")
    assert height_of(one) == four / 2


def test_a_later_line_replaces_an_earlier_one_of_the_same_iteration(tmp_path):
    path = write(
        tmp_path / "metrics.jsonl",
        [
            {"iteration": 20, "lr": 1.0},
            {"iteration": 40, "lr": 2.0},
            {"iteration": 20, "lr": 3.0, "note": "x"},
        ],
    )
    assert read_metrics(path) == {"lr": [(20, 3.0), (40, 2.0)]}


def test_an_unfinished_last_line_is_left_out(tmp_path):
    path = write(tmp_path / "metrics.jsonl", [training_line(1)], tail='{"iteration": 2, "total_l')
    assert [iteration for iteration, _ in read_metrics(path)["total_loss"]] == [1]


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", '{"lr": 1.0}', "3"])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps(training_line(1))}\n{line}\n{json.dumps(training_line(2))}\n")
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: expected a JSON object with 'iteration'"):
        plot_curves(path, tmp_path / "curves.png")


def test_nothing_to_plot_is_an_error(tmp_path):
    path = write(tmp_path / "metrics.jsonl", [{"iteration": 1, "time": 0.5}])
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_curves(path, tmp_path / "curves.png")
    with pytest.raises(FileNotFoundError):
        plot_curves(tmp_path / "absent.jsonl", tmp_path / "curves.png")


def test_losses_that_are_not_finite_are_drawn_as_gaps(tmp_path):
    lines = [training_line(i) for i in range(1, 200)]
    lines[50]["total_loss"] = math.nan
    plot_curves(write(tmp_path / "metrics.jsonl", lines), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_importing_the_package_leaves_matplotlib_out():
    code = "import sys, detrex_lite.visualization as v; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
