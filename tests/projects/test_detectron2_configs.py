"""Every leaf config as detectron2's own training script uses it; only where detectron2 is installed."""

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
    """Folders of small data sets in every layout that configs name: what a user fills in."""
    root = tmp_path_factory.mktemp("data")
    own = root / "own"
    write_same_content_twice(own)
    for split in ("train", "val"):
        (root / "coco" / f"{split}2017").mkdir(parents=True)
        (root / "coco" / "annotations").mkdir(exist_ok=True)
        (root / f"coco/annotations/instances_{split}2017.json").write_text((own / "instances.json").read_text())
        (own / f"{split}.json").write_text((own / "instances.json").read_text())
        (own / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (own / f"ImageSets/Main/{split}.txt").write_text((own / "split.txt").read_text())
    (own / "Annotations").symlink_to(own / "annotations")
    (own / "JPEGImages").symlink_to(own / "images")
    generate_shapes(root / "shapes", num_train=4, num_val=2, image_size=32)
    return root


def load(path, data, output_dir):
    """The config by detectron2, with what its user has to fill in; no weights are downloaded."""
    from detectron2.config import LazyConfig as Detectron2Config

    own = data / "own"
    filled_in = {
        "root": data / "shapes" if "shapes" in path.name else own,
        **{f"{split}_images": own / "images" for split in ("train", "val")},
        **{f"{split}_annotations": own / "instances.json" for split in ("train", "val")},
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
def test_it_runs_unmodified(path, data, tmp_path, monkeypatch):
    from detectron2.config import instantiate
    from detectron2.engine import create_ddp_model

    monkeypatch.setenv("DETREX_DATASETS", str(data))
    cfg = load(path, data, tmp_path)
    if "Timm" in str(cfg.model.backbone._target_) and importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed: pip install timm")
    with torch.device("meta"):  # large networks take neither time nor memory there
        model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in model.parameters() if p.requires_grad}

    multiplier = instantiate(cfg.lr_multiplier)
    assert isinstance(multiplier, ParamScheduler)
    assert all(0 <= multiplier(where) <= 1 for where in (0.0, 0.5, 0.999))

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
def test_the_config_that_it_saves_is_read_here(path, data, tmp_path, monkeypatch, caplog):
    from detectron2.config import LazyConfig as Detectron2Config

    monkeypatch.setenv("DETREX_DATASETS", str(data))
    cfg = load(path, data, tmp_path)
    with caplog.at_level(logging.WARNING):
        Detectron2Config.save(cfg, str(tmp_path / "config.yaml"))
    assert caplog.messages == []
    saved = LazyConfig.load(tmp_path / "config.yaml")
    validate(saved)
    as_values = [OmegaConf.create(LazyConfig.to_yaml(one, resolve=True)) for one in (cfg, saved)]
    assert as_values[0] == as_values[1]
