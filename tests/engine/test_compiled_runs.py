"""Runs with train.compile=True equal eager runs: in one process, resumed, and in two processes."""

import pytest

from detrex_lite.data import generate_shapes
from detrex_lite.engine import launch

from . import split_runs
from .test_two_processes import assert_equal_runs

COMPILED = "train.compile=True"


@pytest.fixture
def folder(tmp_path):
    for name, empty_share in (("even", 0), ("uneven", 0.2)):
        generate_shapes(tmp_path / name, max_objects=3, empty_share=empty_share, num_train=10, num_val=5, image_size=48)
    return tmp_path


def test_compiled_and_resumed_runs_equal_the_eager_run(folder):
    split_runs.run(folder, "eager")
    with split_runs.traced() as graphs:
        split_runs.run(folder, "compiled", COMPILED)
        split_runs.interrupt(folder, "compiled", "resumed")
        split_runs.run(folder, "resumed", COMPILED, resume=True)
    assert graphs.frame_count > 0
    assert_equal_runs(folder / "eager", folder / "compiled")
    assert_equal_runs(folder / "eager", folder / "resumed")


@pytest.mark.slow
def test_a_compiled_run_in_two_processes_equals_an_eager_run(folder):
    split_runs.run(folder, "dino_by_one", model="dino")
    launch(split_runs.run_compiled_in_two_processes, 2, device="cpu", args=(folder,))
    assert_equal_runs(folder / "dino_by_one", folder / "dino_by_two")
