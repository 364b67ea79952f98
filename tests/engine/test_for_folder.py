"""Tests the settings that follow from a folder, a device and a published training.

The fixture `data` has 12 training and 4 validation images of 64x64 pixels.
"""

import pytest
import torch

from detrex_lite.config import ConfigError, LazyConfig
from detrex_lite.data import DatasetError, generate_shapes
from detrex_lite.engine import for_folder as planning
from detrex_lite.engine.for_folder import Choices, for_folder, set_image_size
from detrex_lite.engine.memory import MemoryNeed, free_memory, measure_need
from detrex_lite.engine.settings import complete

from ..suites import first_always

DINO = "projects/dino/configs/dino_r50_4scale_12ep.py"
SMALL = "projects/dino/configs/dino_small_shapes.py"
DFINE = "projects/dfine/configs/dfine_n_160ep.py"
GIB = 2**30


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp("photos"), num_train=12, num_val=4, image_size=64)


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Simulate a CPU with 10 GiB of free memory, on which each image needs 1 GiB."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(planning, "free_memory", lambda device: 10 * GIB)
    monkeypatch.setattr(planning, "measure_need", lambda cfg, pixels: MemoryNeed(GIB, GIB))


def plan(file, data, overrides=(), **choices):
    folder_plan = for_folder(LazyConfig.load(file), data, Choices(**choices))
    cfg = LazyConfig.apply_overrides(folder_plan.cfg, list(overrides))
    return complete(cfg, ("dataloader", "optimizer", "lr_multiplier")), {
        setting.name: (setting.value, setting.reason) for setting in folder_plan.settings
    }


def test_settings_follow_from_the_data_and_the_published_training(data):
    cfg, settings = plan(DINO, data)
    assert cfg.model.num_classes == cfg.model.denoising.num_classes == 3
    assert cfg.dataloader.train.total_batch_size == 3  # of 12 images: four steps
    assert cfg.train.max_epochs == 600
    assert cfg.optimizer.lr == pytest.approx(1e-4 * (3 / 16) ** 0.5, rel=0.01)
    assert cfg.model.backbone.norm == "BN"
    assert cfg.dataloader.test.mapper.augmentation.short_edge_length == 224  # images are small, and a CPU slow
    assert settings["size"][0].startswith("224")
    assert "800" in settings["size"][1]
    assert settings["images"][0] == "12 for training, 4 for validation"
    assert settings["weights"][0].startswith("none")
    assert cfg.train.output_dir.startswith("output/dino_r50_4scale_12ep_photos")


def test_a_detector_trained_from_scratch_has_a_query_for_each_object(data, tmp_path):
    weights = tmp_path / "weights.pth"
    weights.touch()
    cfg = LazyConfig.load(SMALL)
    cfg.model.num_queries = 1
    from_scratch = for_folder(cfg, data)
    assert from_scratch.cfg.model.num_queries == 50
    assert [setting.value for setting in from_scratch.settings if setting.name == "queries"] == ["50"]
    for choices in (Choices(weights=str(weights)), Choices(overrides=frozenset({"model.num_queries"}))):
        assert for_folder(cfg, data, choices).cfg.model.num_queries == 1


def test_choices_of_the_user_are_kept_and_other_settings_follow(data, tmp_path):
    weights = tmp_path / "weights.pth"
    weights.touch()
    cfg, settings = plan(
        DINO, data, weights=str(weights), epochs=7, batch=4, size=400, workers=0, seed=5, output="out", device="cpu"
    )
    assert (cfg.train.max_epochs, cfg.train.eval_epochs, cfg.train.checkpoint_epochs) == (7, 1, 1)
    assert cfg.dataloader.train.total_batch_size == 4
    assert cfg.optimizer.lr == pytest.approx(5e-5)
    assert cfg.train.init_checkpoint == str(weights)
    assert (cfg.model.backbone.norm, cfg.model.backbone.freeze_at) == ("FrozenBN", 1)
    assert (cfg.train.seed, cfg.dataset.seed, cfg.train.output_dir) == (5, 5, "out")
    assert cfg.dataloader.test.mapper.augmentation == {
        **cfg.dataloader.test.mapper.augmentation,
        "short_edge_length": 400,
        "max_size": 666,
    }
    assert settings["epochs"] == ("7", "as asked for")
    cfg, _ = plan(DINO, data, lr=3e-4)
    assert cfg.optimizer.lr == 3e-4


def test_the_learning_rate_follows_an_override_of_the_batch(data):
    cfg, _ = plan(DINO, data, ["dataloader.train.total_batch_size=1"])
    assert cfg.optimizer.lr == pytest.approx(2.5e-5)


def test_a_batch_that_exceeds_the_memory_is_accumulated(data, monkeypatch):
    monkeypatch.setattr(planning, "free_memory", lambda device: 4 * GIB)
    cfg, settings = plan(DINO, data)
    assert (cfg.dataloader.train.total_batch_size, cfg.train.accumulate_steps) == (2, 2)
    assert cfg.optimizer.lr == pytest.approx(5e-5)
    assert "4.0 GiB are free" in settings["batch"][1]
    monkeypatch.setattr(planning, "free_memory", lambda device: None)
    cfg, _ = plan(DINO, data)
    assert (cfg.dataloader.train.total_batch_size, cfg.train.accumulate_steps) == (3, 1)


def test_schedules_of_realtime_detectors_are_scaled_to_the_epochs(data):
    cfg, _ = plan(DFINE, data, epochs=66, size=96)
    assert list(cfg.dataloader.strong_epochs) == [2, 60]
    assert cfg.train.model_ema.restart.epoch == 60
    assert cfg.lr_multiplier.epochs == 132  # D-FINE's schedule, stretched to this length
    assert cfg.dataloader.image_size == 96
    assert not cfg.train.amp.enabled
    with pytest.raises(ConfigError, match="multiple of 32"):
        plan(DFINE, data, size=100)


def test_a_folder_replaces_the_shapes_of_small_models(data):
    cfg, settings = plan(SMALL, data)
    assert cfg.dataset.root == str(data)
    assert cfg.train.max_epochs == 600  # the maximum
    assert cfg.dataloader.train.mapper.augmentation.distort_probability == 0.5  # unlike in the config for shapes
    assert cfg.dataloader.evaluator.dataset.split == "val"
    assert settings["data"] == (str(data), "COCO")


def test_set_image_size_scales_all_sizes_in_proportion():
    cfg = LazyConfig.load("projects/rfdetr/configs/rfdetr_nano_100ep.py")
    set_image_size(cfg, 192)
    assert cfg.dataloader.image_size == 192
    assert cfg.dataloader.train.multi_scale.sizes[0] == 128  # of 224, in steps of 32
    with pytest.raises(ConfigError, match="no size to set"):
        set_image_size(LazyConfig.load(SMALL), 64)


@pytest.mark.parametrize(
    ("folder_config", "training"),
    first_always(
        [
            ("projects/dino/configs/dino_small_folder.py", SMALL),
            ("projects/dfine/configs/dfine_n_folder.py", DFINE),
            ("projects/dino/configs/dino_r50_folder.py", DINO),
            ("projects/rtdetr/configs/rtdetrv2_r18_folder.py", "projects/rtdetr/configs/rtdetrv2_r18_120ep.py"),
        ],
        2,
    ),
)
def test_folder_configs_agree_with_for_folder(folder_config, training, data):
    cfg = LazyConfig.apply_overrides(LazyConfig.load(folder_config), [f"dataset.root={data}"])
    batch = cfg.dataloader.train.total_batch_size
    cfg = complete(cfg, ("dataloader", "optimizer", "lr_multiplier"))
    planned, _ = plan(training, data, batch=batch)
    for key in ("num_classes", "backbone"):
        assert cfg.model[key] == planned.model[key], key
    assert cfg.optimizer.lr == planned.optimizer.lr
    assert cfg.train.max_epochs == planned.train.max_epochs
    assert cfg.lr_multiplier == planned.lr_multiplier
    assert cfg.dataloader.train.dataset == planned.dataloader.train.dataset


def test_folders_without_annotations_raise(tmp_path):
    with pytest.raises(DatasetError, match="no data set"):
        plan(DINO, tmp_path)
    with pytest.raises(ConfigError, match="no dataloader"):
        for_folder(LazyConfig.load("projects/dino/configs/models/dino_small.py"), tmp_path)


def test_describe_has_a_line_for_each_setting(data):
    text = for_folder(LazyConfig.load(DINO), data).describe()
    for name in (
        "data",
        "images",
        "classes",
        "device",
        "weights",
        "size",
        "batch",
        "epochs",
        "learning rate",
        "output",
    ):
        assert any(line.startswith(f"{name} ") for line in text.splitlines()), name
    assert "[--epochs]" in text


def test_memory_need_grows_with_the_image_size():
    cfg = LazyConfig.load("projects/detr/configs/models/detr_small.py")
    small, large = measure_need(cfg, 128**2), measure_need(cfg, 512**2)
    assert small.fixed == large.fixed
    assert 8 * small.per_image < large.per_image < 32 * small.per_image
    parameters = 4 * 2**20
    assert small.fixed > parameters
    assert measure_need(LazyConfig.load("projects/maskdino/configs/models/maskdino_small.py"), 1) is None
    assert free_memory("cpu") is None or free_memory("cpu") > 0
