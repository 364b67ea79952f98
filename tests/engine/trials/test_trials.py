"""Tests the trials before training on generated images, with a model of two layers."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from detrex_lite.config import ConfigError, LazyConfig, get_config
from detrex_lite.config import LazyCall as L
from detrex_lite.data import generate_shapes, images_with_objects, load_shapes
from detrex_lite.engine import train
from detrex_lite.engine.memory import bytes_kept
from detrex_lite.engine.trials import batch_size as batch_size_module
from detrex_lite.engine.trials import dry_run, find_batch_size, find_learning_rate, overfit
from detrex_lite.engine.trials.batch_size import GIB, largest_sample, largest_that_fits
from detrex_lite.engine.trials.learning_rate import _judge
from detrex_lite.engine.trials.overfit import Overfit, overfit_config, verdict
from detrex_lite.engine.trials.trial import build_trainer, trial
from detrex_lite.evaluation import CocoEvaluator
from tests.engine.tiny import CountingEvaluator, tiny_config


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=8, num_val=2, image_size=48)


@pytest.fixture
def cfg(shapes, tmp_path):
    cfg = tiny_config(tmp_path / "run")
    data = get_config("common/data/shapes.py")
    cfg.dataset, cfg.dataloader = data.dataset, data.dataloader
    overrides = ["dataloader.train.total_batch_size=4", "dataloader.train.num_workers=0"]
    return LazyConfig.apply_overrides(cfg, [f"dataset.root={shapes}", *overrides, "dataloader.test.num_workers=0"])


def test_a_dry_run_writes_only_pictures_of_batches(cfg, tmp_path, caplog):
    with caplog.at_level("INFO", "detrex_lite"):
        pictures = dry_run(cfg, num_batches=2)
    written = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert written == sorted(pictures) == [tmp_path / "run" / "dry_run" / f"batch_{number}.jpg" for number in (0, 1)]
    picture = np.asarray(Image.open(pictures[0]))
    assert picture.shape[0] >= 2 * 48  # four images in two rows
    assert picture.shape[1] >= 2 * 48
    for part in ("shapes_train: 8 images", "6 steps", "has a loss of", "validation was detected", str(pictures[1])):
        assert part in caplog.text
    train(cfg)  # the folder does not count as that of another run


def test_a_dry_run_raises_for_a_wrong_number_of_classes(cfg):
    cfg.model.num_classes = 5
    with pytest.raises(ConfigError, match=r"model\.num_classes=3"):
        dry_run(cfg)


def test_overfit_config_trains_and_evaluates_on_few_images_without_augmentation(cfg, shapes):
    overfit_cfg = overfit_config(cfg, 3, steps=20)
    loaders = overfit_cfg.dataloader
    assert loaders.train.mapper.augmentation is None
    assert (loaders.train.total_batch_size, loaders.train.dataset.number) == (3, 3)
    assert loaders.test.dataset.dataset.split == loaders.evaluator.dataset.dataset.split == "train"
    assert (overfit_cfg.train.max_iter, overfit_cfg.train.eval_period, overfit_cfg.train.model_ema.enabled) == (
        20,
        2,
        False,
    )
    assert cfg.dataloader.train.total_batch_size == 4
    few = images_with_objects(load_shapes(shapes, "train"), 3)
    assert len(few) == 3
    assert few.objects_per_image().all()
    with pytest.raises(ConfigError, match="at least one image"):
        overfit_config(cfg, 0, steps=20)


def test_overfitting_ends_when_the_images_are_learnt(cfg, tmp_path, caplog):
    cfg.dataloader.evaluator = L(CountingEvaluator)(values=[10.0, 90.0])
    with caplog.at_level("INFO", "detrex_lite"):
        result = overfit(cfg, 2, steps=30)
    assert result.learnt
    assert (result.metric, result.value, result.output_dir) == ("bbox/AP", 90.0, tmp_path / "run" / "overfit")
    assert result.steps < 10
    assert "The recipe can learn: bbox/AP is 90.0 on the 2 images" in caplog.text
    assert not list(result.output_dir.glob("*.pth"))
    assert not (tmp_path / "run" / "model_final.pth").exists()
    assert overfit_config(cfg, 2, steps=30).train.output_dir == str(tmp_path / "run" / "overfit_2")


def test_the_verdict_on_unlearnt_images_advises_steps_or_a_learning_rate(tmp_path):
    falling = Overfit(False, "bbox/AP", 5.0, 100, np.linspace(10, 1, 100).tolist(), tmp_path)
    assert "--overfit-steps 200" in verdict(falling, 8)
    assert "--find-lr" in verdict(falling._replace(losses=[3.0] * 100), 8)


def test_the_learning_rate_at_the_steepest_descent_is_suggested():
    rates = np.geomspace(1e-6, 1.0, 61)
    losses = [10 - 5 / (1 + math.exp(-4 * (math.log10(rate) + 3))) + 100 * max(0, rate - 0.1) for rate in rates]
    result = _judge(rates.tolist(), losses)
    assert result.steepest == pytest.approx(1e-3, rel=0.3)  # the middle of the descent
    assert result.suggested == pytest.approx(1e-3, rel=0.3)
    assert "optimizer.lr=1.0e-03" in str(result)
    assert _judge(rates.tolist(), [1.0] * 61).suggested is None


def test_searching_the_learning_rate_writes_no_files(cfg, tmp_path):
    result = find_learning_rate(cfg, lowest=1e-5, highest=10.0, steps=30)
    assert result.rates[0] == pytest.approx(1e-5)
    assert len(result.rates) == len(result.losses) <= 30
    assert result.suggested is None or 1e-5 <= result.suggested <= 10
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="not a range"):
        find_learning_rate(cfg, lowest=1.0, highest=0.1)


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 8, 100, 1000])
def test_largest_that_fits_is_close_to_the_limit_and_needs_few_attempts(limit):
    attempts = []

    def fits(number):
        assert not [attempt for attempt in attempts if attempt > limit and number >= attempt]
        attempts.append(number)
        return number <= limit

    largest = largest_that_fits(fits, 512)
    assert largest <= min(limit, 512)
    assert largest >= min(limit, 512) * 7 / 8
    assert len(attempts) < 20


def test_find_batch_size_respects_the_free_memory_of_a_cpu(cfg, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(batch_size_module, "free_memory", lambda device: 4000)
    with caplog.at_level("INFO", "detrex_lite"):
        result = find_batch_size(cfg, largest=10**9)
    assert 1 < result.images < 10**9
    assert max(result.measured.values()) <= 0.9 * 4000
    assert f"dataloader.train.total_batch_size={result.images} " in caplog.text
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(batch_size_module, "free_memory", lambda device: 10)
    no_batch = find_batch_size(cfg)
    assert no_batch.images == 0
    assert "train.amp.enabled=True" in no_batch.advice


def test_find_batch_size_measures_batches_on_a_gpu(cfg, monkeypatch):
    """Simulates a GPU of 10 GiB, on which a step takes 1 GiB and 0.3 GiB per image."""

    def step_memory(trainer, sample, images):
        used = GIB * (1 + 0.3 * images)
        return int(used) if used < 10 * GIB else None

    monkeypatch.setattr(batch_size_module, "step_memory", step_memory)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (9 * GIB, 10 * GIB))
    monkeypatch.setattr(batch_size_module, "_on_cpu", batch_size_module._on_gpu)
    monkeypatch.setattr(batch_size_module, "dataset_of", lambda loader: None)  # the data set has only 8 images
    result = find_batch_size(cfg)
    assert 24 <= result.images <= 26  # nine tenths of the memory are 8 GiB for images
    assert result.measured[1] == int(1.3 * GIB)


def test_bytes_kept_by_a_forward_pass_are_proportional_to_the_images(cfg):
    with trial(cfg) as run:
        sample = largest_sample(run.train_loader)
        trainer = build_trainer(run, max_iter=1, hooks=[])
        bytes_of_one, bytes_of_three = (bytes_kept(trainer.model.train(), [sample] * images) for images in (1, 3))
    assert 2 * bytes_of_one < bytes_of_three <= 3 * bytes_of_one


@pytest.mark.slow
def test_the_recipe_of_detr_overfits_few_images(tmp_path):
    cfg = get_config("projects/detr/configs/detr_small_shapes.py")
    generate_shapes(tmp_path / "shapes", num_train=4, num_val=2, image_size=64)
    LazyConfig.apply_overrides(
        cfg, [f"dataset.root={tmp_path / 'shapes'}", f"train.output_dir={tmp_path}", "train.device=cpu"]
    )
    assert cfg.dataloader.evaluator._target_ in (CocoEvaluator, "detrex_lite.evaluation.CocoEvaluator")
    result = overfit(cfg, 4)
    assert result.learnt
    assert result.steps < 500
