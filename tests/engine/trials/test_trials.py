"""What is tried out before training: on generated images, with a model of two layers."""

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


def test_a_dry_run_draws_batches_and_leaves_nothing_else(cfg, tmp_path, caplog):
    with caplog.at_level("INFO", "detrex_lite"):
        pictures = dry_run(cfg, num_batches=2)
    written = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert written == sorted(pictures) == [tmp_path / "run" / "dry_run" / f"batch_{number}.jpg" for number in (0, 1)]
    picture = np.asarray(Image.open(pictures[0]))
    assert picture.shape[0] >= 2 * 48  # four images in two rows
    assert picture.shape[1] >= 2 * 48
    for part in ("shapes_train: 8 images", "6 steps", "has a loss of", "validation was detected", str(pictures[1])):
        assert part in caplog.text
    train(cfg)  # the folder is not taken for one that holds a run


def test_a_dry_run_finds_what_is_wrong(cfg):
    cfg.model.num_classes = 5
    with pytest.raises(ConfigError, match=r"model\.num_classes=3"):
        dry_run(cfg)


def test_overfitting_trains_on_few_images_without_augmentation_and_evaluates_on_them(cfg, shapes):
    changed = overfit_config(cfg, 3, steps=20)
    loaders = changed.dataloader
    assert loaders.train.mapper.augmentation is None
    assert (loaders.train.total_batch_size, loaders.train.dataset.number) == (3, 3)
    assert loaders.test.dataset.dataset.split == loaders.evaluator.dataset.dataset.split == "train"
    assert (changed.train.max_iter, changed.train.eval_period, changed.train.model_ema.enabled) == (20, 2, False)
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


def test_what_is_said_of_images_that_were_not_learnt(tmp_path):
    falling = Overfit(False, "bbox/AP", 5.0, 100, np.linspace(10, 1, 100).tolist(), tmp_path)
    assert "--overfit-steps 200" in verdict(falling, 8)
    assert "--find-lr" in verdict(falling._replace(losses=[3.0] * 100), 8)


def test_the_learning_rate_is_found_on_a_curve_whose_answer_is_known():
    rates = np.geomspace(1e-6, 1.0, 61)
    losses = [10 - 5 / (1 + math.exp(-4 * (math.log10(rate) + 3))) + 100 * max(0, rate - 0.1) for rate in rates]
    found = _judge(rates.tolist(), losses)
    assert found.steepest == pytest.approx(1e-3, rel=0.3)  # the middle of the descent
    assert found.suggested == pytest.approx(1e-3, rel=0.3)
    assert "optimizer.lr=1.0e-03" in str(found)
    assert _judge(rates.tolist(), [1.0] * 61).suggested is None


def test_a_search_for_the_learning_rate_leaves_nothing_behind(cfg, tmp_path):
    found = find_learning_rate(cfg, lowest=1e-5, highest=10.0, steps=30)
    assert found.rates[0] == pytest.approx(1e-5)
    assert len(found.rates) == len(found.losses) <= 30
    assert found.suggested is None or 1e-5 <= found.suggested <= 10
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="not a range"):
        find_learning_rate(cfg, lowest=1.0, highest=0.1)


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 7, 8, 100, 1000])
def test_the_largest_number_that_fits(limit):
    asked = []

    def fits(number):
        assert not [other for other in asked if other > limit and number >= other]
        asked.append(number)
        return number <= limit

    found = largest_that_fits(fits, 512)
    assert found <= min(limit, 512)
    assert found >= min(limit, 512) * 7 / 8
    assert len(asked) < 20


def test_the_batch_that_fits_into_the_memory_of_a_machine(cfg, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(batch_size_module, "free_memory", lambda device: 4000)
    with caplog.at_level("INFO", "detrex_lite"):
        found = find_batch_size(cfg, largest=10**9)
    assert 1 < found.images < 10**9
    assert max(found.measured.values()) <= 0.9 * 4000
    assert f"dataloader.train.total_batch_size={found.images} " in caplog.text
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(batch_size_module, "free_memory", lambda device: 10)
    nothing = find_batch_size(cfg)
    assert nothing.images == 0
    assert "train.amp.enabled=True" in nothing.advice


def test_the_batch_that_fits_into_a_gpu_is_found_by_trying(cfg, monkeypatch):
    """A GPU of 10 GiB on which an image takes 0.3 GiB besides 1 GiB for the rest."""

    def step_memory(trainer, sample, images):
        used = GIB * (1 + 0.3 * images)
        return int(used) if used < 10 * GIB else None

    monkeypatch.setattr(batch_size_module, "step_memory", step_memory)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (9 * GIB, 10 * GIB))
    monkeypatch.setattr(batch_size_module, "_on_cpu", batch_size_module._on_gpu)
    monkeypatch.setattr(batch_size_module, "dataset_of", lambda loader: None)  # which has 8 images only
    found = find_batch_size(cfg)
    assert 24 <= found.images <= 26  # nine tenths of the memory are 8 GiB for images
    assert found.measured[1] == int(1.3 * GIB)


def test_what_a_forward_pass_keeps_is_in_proportion_to_the_images(cfg):
    with trial(cfg) as run:
        sample = largest_sample(run.train_loader)
        trainer = build_trainer(run, max_iter=1, hooks=[])
        one, three = (bytes_kept(trainer.model.train(), [sample] * images) for images in (1, 3))
    assert 2 * one < three <= 3 * one


@pytest.mark.slow
def test_a_real_recipe_overfits_images(tmp_path):
    cfg = get_config("projects/detr/configs/detr_small_shapes.py")
    generate_shapes(tmp_path / "shapes", num_train=4, num_val=2, image_size=64)
    LazyConfig.apply_overrides(
        cfg, [f"dataset.root={tmp_path / 'shapes'}", f"train.output_dir={tmp_path}", "train.device=cpu"]
    )
    assert cfg.dataloader.evaluator._target_ in (CocoEvaluator, "detrex_lite.evaluation.CocoEvaluator")
    result = overfit(cfg, 4)
    assert result.learnt
    assert result.steps < 500
