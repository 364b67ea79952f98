"""Every leaf config as the training script of detectron2 uses it. Needs detectron2."""

import importlib.util
import inspect
import logging

import pytest
import torch
from fvcore.common.checkpoint import PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import OmegaConf

from detrex_lite.config import LazyConfig, validate
from detrex_lite.data import generate_shapes
from tests.data.samples import write_same_content_twice
from tests.detectron2 import needs_detectron2

from .test_configs import LEAVES, name

pytestmark = needs_detectron2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders of small data sets in every format of the configs, which users fill in."""
    root = tmp_path_factory.mktemp("data")
    custom = root / "custom"
    write_same_content_twice(custom)
    for split in ("train", "val"):
        (root / "coco" / f"{split}2017").mkdir(parents=True)
        (root / "coco" / "annotations").mkdir(exist_ok=True)
        (root / f"coco/annotations/instances_{split}2017.json").write_text((custom / "instances.json").read_text())
        (custom / f"{split}.json").write_text((custom / "instances.json").read_text())
        (custom / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (custom / f"ImageSets/Main/{split}.txt").write_text((custom / "split.txt").read_text())
    (custom / "Annotations").symlink_to(custom / "annotations")
    (custom / "JPEGImages").symlink_to(custom / "images")
    generate_shapes(root / "shapes", num_train=4, num_val=2, image_size=32)
    return root


def load(path, data, output_dir):
    """Load a config with detectron2 and fill in the values of users; no weights are downloaded."""
    from detectron2.config import LazyConfig as Detectron2Config

    custom = data / "custom"
    filled_in = {
        "root": data / "shapes" if "shapes" in path.name else custom,
        **{f"{split}_images": custom / "images" for split in ("train", "val")},
        **{f"{split}_annotations": custom / "instances.json" for split in ("train", "val")},
    }
    cfg = Detectron2Config.load(str(path))
    overrides = [f"train.output_dir={output_dir}", "model.backbone.weights=null"]
    if "root" in cfg.get("dataset", {}):
        overrides.append(f"dataset.root={filled_in['root']}")
    for key in [key for key in cfg.get("dataset", {}) if key in filled_in and OmegaConf.is_missing(cfg.dataset, key)]:
        overrides.append(f"dataset.{key}={filled_in[key]}")
    if OmegaConf.is_missing(cfg.model, "num_classes"):
        overrides.append("model.num_classes=2")
    return Detectron2Config.apply_overrides(cfg, overrides)


@pytest.mark.parametrize("path", LEAVES, ids=name)
def test_detectron2_uses_leaf_configs_unmodified(path, data, tmp_path, monkeypatch):
    from detectron2.config import instantiate
    from detectron2.engine import create_ddp_model

    monkeypatch.setenv("DETREX_DATASETS", str(data))
    cfg = load(path, data, tmp_path)
    if "Timm" in str(cfg.model.backbone._target_) and importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed: pip install timm")
    with torch.device("meta"):  # large networks need neither time nor memory on this device
        model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}

    multiplier = instantiate(cfg.lr_multiplier)
    assert isinstance(multiplier, ParamScheduler)
    assert all(0 <= multiplier(progress) <= 1 for progress in (0.0, 0.5, 0.999))

    train_loader, test_loader = instantiate(cfg.dataloader.train), instantiate(cfg.dataloader.test)
    evaluator = instantiate(cfg.dataloader.evaluator)
    assert iter(train_loader.batch_sampler) is not None
    assert len(test_loader) >= 1
    for method in ("reset", "process", "evaluate"):
        assert callable(getattr(evaluator, method))

    assert type(cfg.train.max_iter) is int
    assert cfg.train.max_iter >= 1
    for key in ("eval_period", "log_period"):
        assert type(cfg.train[key]) is int
    assert cfg.train.init_checkpoint == ""
    assert create_ddp_model(model, **cfg.train.ddp) is model
    inspect.signature(PeriodicCheckpointer).bind(checkpointer=None, **cfg.train.checkpointer)


@pytest.mark.parametrize("path", [path for path in LEAVES if "small" in path.name], ids=name)
def test_a_config_saved_by_detectron2_is_read_unchanged(path, data, tmp_path, monkeypatch, caplog):
    from detectron2.config import LazyConfig as Detectron2Config

    monkeypatch.setenv("DETREX_DATASETS", str(data))
    cfg = load(path, data, tmp_path)
    with caplog.at_level(logging.WARNING):
        Detectron2Config.save(cfg, str(tmp_path / "config.yaml"))
    assert caplog.messages == []
    saved = LazyConfig.load(tmp_path / "config.yaml")
    validate(saved)
    as_values = [OmegaConf.create(LazyConfig.to_yaml(config, resolve=True)) for config in (cfg, saved)]
    assert as_values[0] == as_values[1]
