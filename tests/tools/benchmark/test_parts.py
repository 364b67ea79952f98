"""The commands that measure a part of training or evaluation, with few repeats: durations are not tested."""

import pytest
import torch
from PIL import Image

from detrex_lite.tools.benchmark.errors import BenchmarkError
from detrex_lite.tools.benchmark.evaluation import benchmark_evaluation
from detrex_lite.tools.benchmark.loader import benchmark_loader
from detrex_lite.tools.benchmark.matching import benchmark_matching
from detrex_lite.tools.benchmark.photographs import generated_photographs
from detrex_lite.tools.benchmark.settings import MatchingSettings
from detrex_lite.tools.benchmark.training import benchmark_training
from tests.engine.tiny import CONFIG_FILE

from .configs import DIVERGED, MATCHING, TINY

CPU = torch.device("cpu")


def test_generated_photographs_depend_only_on_the_seed(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first, second = (generated_photographs(tmp_path / name, 2, seed=3) for name in ("a", "b"))
    torch.testing.assert_close(first[1]["boxes"], second[1]["boxes"], rtol=0, atol=0)
    assert Image.open(first[0]["file_name"]).size == (640, 480)
    size = (tmp_path / "a" / "000000.jpg").stat().st_size
    assert size == (tmp_path / "b" / "000000.jpg").stat().st_size
    assert 60_000 < size < 250_000


def test_the_loader_report_names_the_slowest_stage_and_restores_the_threads():
    threads = torch.get_num_threads()
    report = benchmark_loader(images=2, repeats=2)
    assert torch.get_num_threads() == threads
    assert report.machine["threads"] == 1
    assert list(report.timings) == ["image", "read", "decode", "augment", "pack"]
    assert len(report.timings["image"].seconds) == 4
    assert sum(report.share(part) for part in list(report.timings)[1:]) == pytest.approx(1)
    assert report.rates["images/s per core"] > 0
    assert report.notes[0].removeprefix("The limit is: ").rstrip(".") in ("decode", "augment")


def test_the_loader_of_a_config_is_measured(tmp_path):
    report = benchmark_loader(
        "projects/detr/configs/detr_small_shapes.py",
        [f"dataloader.train.dataset.root={tmp_path}/shapes"],
        images=2,
        repeats=1,
    )
    assert len(report.timings["image"].seconds) == 2


def test_the_loader_is_measured_on_photographs_at_an_epoch():
    """In epochs with mosaics, half of the images need three more images, so that augmentation takes longer."""
    reports = [
        benchmark_loader(
            "configs/common/data/coco_realtime_mosaic.py",
            ["dataloader.image_size=64", "dataloader.strong_epochs=[1,2]"],
            images=4,
            repeats=2,
            epoch=epoch,
            photographs=True,
        )
        for epoch in (0, 1)
    ]
    assert list(reports[0].timings) == ["image", "read", "decode", "augment", "pack", "batch"]
    augment = [sum(report.timings["augment"].seconds) for report in reports]
    assert augment[1] > 1.5 * augment[0]


def test_the_loader_of_a_config_without_a_data_set_raises():
    with pytest.raises(BenchmarkError, match=r"no dataloader\.train .*dataset"):
        benchmark_loader(str(CONFIG_FILE))


def test_matching_is_measured():
    report = benchmark_matching(MatchingSettings(sets=2, queries=9, images=2, objects=3, classes=4, repeats=3), CPU)
    assert "Matching 2 sets of 9 queries with 3 objects in each of 2 images" in str(report)
    assert len(report.timings["matching"].seconds) == 3
    assert report.share("of that, costs") > 0


def test_evaluation_is_measured():
    report = benchmark_evaluation(images=3, detections=5, repeats=2, backend="pycocotools")
    assert "COCO evaluation of 5 detections in each of 3 images, by pycocotools" in str(report)
    assert len(report.timings["from its end to the table"].seconds) == 2


def test_phases_of_training_are_measured():
    report = benchmark_training(str(CONFIG_FILE), ["dataloader.train.length=3"], CPU, repeats=4, warmup=1)
    assert list(report.timings) == ["step", "data", "forward", "backward", "optimizer"]
    assert len(report.timings["step"].seconds) == 4  # more steps than batches: the loader is restarted
    assert "2 images each" in str(report)
    assert report.rates["images/s"] > 0
    assert report.share("forward") + report.share("backward") + report.share("optimizer") < 1


def test_matching_is_measured_as_a_part_of_the_forward_pass():
    report = benchmark_training(str(CONFIG_FILE), [f"model._target_={MATCHING}"], CPU, repeats=2, warmup=1)
    assert list(report.timings) == ["step", "data", "forward", "matching", "backward", "optimizer"]
    for matching, forward in zip(report.timings["matching"].seconds, report.timings["forward"].seconds, strict=True):
        assert 0 < matching < forward
    assert "Matching is a part of the forward pass." in str(report)


def test_training_settings_of_the_config_are_used():
    settings = ["train.accumulate_steps=3", "train.clip_grad.enabled=True", "train.amp.enabled=True"]
    report = benchmark_training(str(CONFIG_FILE), settings, CPU, repeats=2, warmup=1)
    assert "6 images each" in str(report)


def test_a_non_finite_loss_ends_the_measurement():
    with pytest.raises(BenchmarkError, match="the loss is not finite at iteration 1"):
        benchmark_training(str(CONFIG_FILE), [f"model._target_={DIVERGED}"], CPU, repeats=2, warmup=1)


@pytest.mark.parametrize(
    "measure",
    [
        lambda: benchmark_loader(images=0),
        lambda: benchmark_evaluation(images=1, detections=0),
        lambda: MatchingSettings(sets=0),
        lambda: benchmark_training(TINY, [], CPU, repeats=0),
    ],
)
def test_numbers_below_1_raise(measure):
    with pytest.raises(BenchmarkError, match="must be 1 or more, got 0"):
        measure()
