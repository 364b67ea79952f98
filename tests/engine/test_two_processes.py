"""Two processes that share each batch train what one does: losses, weights, checkpoints, detections."""

import json

import pytest
import torch

from detrex_lite.data import generate_shapes
from detrex_lite.engine import launch

from . import split_runs
from .test_resume import final_state, numbers


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with all runs: those of one process, then those of two, then what one goes on with."""
    folder = tmp_path_factory.mktemp("runs")
    sizes = {"num_train": 10, "num_val": 5, "image_size": 48}
    generate_shapes(folder / "even", max_objects=1, empty_share=0, **sizes)
    generate_shapes(folder / "uneven", max_objects=3, empty_share=0.2, **sizes)
    results = {model: split_runs.run(folder, f"{model}_by_one", model=model) for model in split_runs.MODELS}
    for by in ("by_two", "sharded"):
        split_runs.interrupt(folder, "dino_by_one", f"dino_goes_on_{by}")
    launch(split_runs.in_two_processes, 2, device="cpu", args=(folder,))
    for before in ("by_two", "sharded"):
        split_runs.interrupt(folder, f"dino_{before}", f"dino_goes_on_by_one_after_{before}")
        split_runs.run(folder, f"dino_goes_on_by_one_after_{before}", model="dino", resume=True)
    for rank in (0, 1):
        found = json.loads((folder / f"results_{rank}.json").read_text())
        torch.testing.assert_close(found, results, rtol=0, atol=1e-6, equal_nan=True)
    return folder


def assert_equal_runs(one, other, steps=split_runs.STEPS):
    for mine, its in zip(numbers(one), numbers(other), strict=True):
        torch.testing.assert_close(its, mine, rtol=1e-6, atol=1e-6, equal_nan=True)
    mine, its = final_state(one), final_state(other)
    for state in (mine, its):
        state.pop("rng")  # of each process
        state.pop("losses")
        state.pop("scalars")
        batches = state.pop("batches")
        assert sum(images * number for images, number in batches) == 4 * steps
    torch.testing.assert_close(its, mine, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", ["detr", "dino"])
def test_losses_and_weights_are_those_of_one_process_with_the_whole_batch(runs, model):
    """DETR's with a static graph."""
    assert_equal_runs(runs / f"{model}_by_one", runs / f"{model}_by_two")
    losses = [record["total_loss"] for record in numbers(runs / f"{model}_by_two") if "total_loss" in record]
    assert len(set(losses)) == split_runs.STEPS


def test_accumulated_batches_are_too(runs):
    assert_equal_runs(runs / "detr_by_one", runs / "accumulated_by_two")


@pytest.mark.parametrize("name", ["dino_sharded", "accumulated_sharded"])
def test_shards_train_the_same_and_save_the_same_file(runs, name):
    by_one = runs / ("dino_by_one" if name.startswith("dino") else "detr_by_one")
    assert_equal_runs(by_one, runs / name)
    assert "weights in shards (FSDP2)" in (runs / name / "log.txt").read_text()
    for file in ("model_0000002.pth", "model_final.pth"):
        mine, its = (torch.load(folder / file, weights_only=True)["model"] for folder in (by_one, runs / name))
        assert {key: value.dtype for key, value in mine.items()} == {key: value.dtype for key, value in its.items()}


@pytest.mark.parametrize(
    "name",
    [
        "dino_goes_on_by_two",
        "dino_goes_on_sharded",
        "dino_goes_on_by_one_after_by_two",
        "dino_goes_on_by_one_after_sharded",
    ],
)
def test_another_number_of_processes_goes_on_with_the_same_curve(runs, name):
    assert_equal_runs(runs / "dino_by_one", runs / name)
    log = (runs / name / "log.txt").read_text()
    assert "the images of each step stay the same" in log


def test_every_image_is_evaluated_once_and_detected_alike(runs):
    def found(name):
        detections = json.loads((runs / name / "evaluation" / "predictions.json").read_text())
        return sorted(detections, key=lambda one: (one["image_id"], one["category_id"], *one["bbox"]))

    for name in ("dino_by_two", "dino_sharded"):
        assert len(found(name)) == 5 * 10
        for detection, expected in zip(found(name), found("dino_by_one"), strict=True):
            assert detection.pop("file_name") == expected.pop("file_name")
            torch.testing.assert_close(detection, expected, rtol=0, atol=1e-6)
        assert "Evaluated 50 detections in 5 images" in (runs / name / "log.txt").read_text()


def test_the_summary_says_what_two_processes_change(runs):
    log = (runs / "detr_by_two" / "log.txt").read_text()
    assert "2 by gloo, gradients averaged (DistributedDataParallel); each takes 2 of the 4 images of a batch" in log
    assert not list(runs.glob("*/log.rank1.txt"))
