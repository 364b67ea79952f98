"""Runs with train.compile=True are those without, on one process, resumed, and shared by two."""

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


def test_one_process_and_a_resumed_run(folder):
    split_runs.run(folder, "eager")
    with split_runs.traced() as graphs:
        split_runs.run(folder, "compiled", COMPILED)
        split_runs.interrupt(folder, "compiled", "goes_on")
        split_runs.run(folder, "goes_on", COMPILED, resume=True)
    assert graphs.frame_count > 0
    assert_equal_runs(folder / "eager", folder / "compiled")
    assert_equal_runs(folder / "eager", folder / "goes_on")


@pytest.mark.slow
def test_two_processes(folder):
    split_runs.run(folder, "dino_by_one", model="dino")
    launch(split_runs.compiled_in_two_processes, 2, device="cpu", args=(folder,))
    assert_equal_runs(folder / "dino_by_one", folder / "dino_by_two")
