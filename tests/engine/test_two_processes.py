"""Two processes that split each batch give the losses, weights, checkpoints and detections of a single process."""

import json

import pytest
import torch

from detrex_lite.data import generate_shapes
from detrex_lite.engine import launch

from . import split_runs
from .test_resume import final_state, numbers


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return a folder with all runs: of one process, of two, and of one process that resumes a run of two."""
    folder = tmp_path_factory.mktemp("runs")
    sizes = {"num_train": 10, "num_val": 5, "image_size": 48}
    generate_shapes(folder / "even", max_objects=1, empty_share=0, **sizes)
    generate_shapes(folder / "uneven", max_objects=3, empty_share=0.2, **sizes)
    results = {model: split_runs.run(folder, f"{model}_by_one", model=model) for model in split_runs.MODELS}
    for kind in ("by_two", "sharded"):
        split_runs.interrupt(folder, "dino_by_one", f"dino_resumed_{kind}")
    launch(split_runs.run_in_two_processes, 2, device="cpu", args=(folder,))
    for kind in ("by_two", "sharded"):
        split_runs.interrupt(folder, f"dino_{kind}", f"dino_resumed_by_one_after_{kind}")
        split_runs.run(folder, f"dino_resumed_by_one_after_{kind}", model="dino", resume=True)
    for rank in (0, 1):
        process_results = json.loads((folder / f"results_{rank}.json").read_text())
        torch.testing.assert_close(process_results, results, rtol=0, atol=1e-6, equal_nan=True)
    return folder


def assert_equal_runs(expected_run, actual_run, steps=split_runs.STEPS):
    for expected, actual in zip(numbers(expected_run), numbers(actual_run), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6, equal_nan=True)
    expected, actual = final_state(expected_run), final_state(actual_run)
    for state in (expected, actual):
        state.pop("rng")  # each process has a state of its own
        state.pop("losses")
        state.pop("scalars")
        batches = state.pop("batches")
        assert sum(images * number for images, number in batches) == 4 * steps
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", ["detr", "dino"])
def test_two_processes_train_as_one_with_the_whole_batch(runs, model):
    """DETR trains with a static graph."""
    assert_equal_runs(runs / f"{model}_by_one", runs / f"{model}_by_two")
    losses = [record["total_loss"] for record in numbers(runs / f"{model}_by_two") if "total_loss" in record]
    assert len(set(losses)) == split_runs.STEPS


def test_two_processes_with_accumulated_batches_train_as_one_with_the_whole_batch(runs):
    assert_equal_runs(runs / "detr_by_one", runs / "accumulated_by_two")


@pytest.mark.parametrize("name", ["dino_sharded", "accumulated_sharded"])
def test_sharded_runs_train_the_same_and_save_the_same_checkpoints(runs, name):
    by_one = runs / ("dino_by_one" if name.startswith("dino") else "detr_by_one")
    assert_equal_runs(by_one, runs / name)
    assert "weights in shards (FSDP2)" in (runs / name / "log.txt").read_text()
    for file in ("model_0000002.pth", "model_final.pth"):
        expected, actual = (torch.load(folder / file, weights_only=True)["model"] for folder in (by_one, runs / name))
        assert {key: value.dtype for key, value in expected.items()} == {
            key: value.dtype for key, value in actual.items()
        }


@pytest.mark.parametrize(
    "name",
    [
        "dino_resumed_by_two",
        "dino_resumed_sharded",
        "dino_resumed_by_one_after_by_two",
        "dino_resumed_by_one_after_sharded",
    ],
)
def test_resuming_with_another_number_of_processes_continues_the_same_curve(runs, name):
    assert_equal_runs(runs / "dino_by_one", runs / name)
    log = (runs / name / "log.txt").read_text()
    assert "the images of each step stay the same" in log


def test_two_processes_evaluate_each_image_once_with_the_same_detections(runs):
    def sorted_detections(name):
        detections = json.loads((runs / name / "evaluation" / "predictions.json").read_text())
        return sorted(detections, key=lambda row: (row["image_id"], row["category_id"], *row["bbox"]))

    for name in ("dino_by_two", "dino_sharded"):
        assert len(sorted_detections(name)) == 5 * 10
        for detection, expected in zip(sorted_detections(name), sorted_detections("dino_by_one"), strict=True):
            assert detection.pop("file_name") == expected.pop("file_name")
            torch.testing.assert_close(detection, expected, rtol=0, atol=1e-6)
        assert "Evaluated 50 detections in 5 images" in (runs / name / "log.txt").read_text()


def test_the_summary_describes_the_work_of_two_processes(runs):
    log = (runs / "detr_by_two" / "log.txt").read_text()
    assert "2 by gloo, gradients averaged (DistributedDataParallel); each takes 2 of the 4 images" in log
    assert not list(runs.glob("*/log.rank1.txt"))
