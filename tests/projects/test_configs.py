"""Every config that ships is whole: it loads, validates and opens with the command that runs it."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

import detrex_lite.projects
from detrex_lite.config import LazyConfig, validate

PROJECTS = Path(next(iter(detrex_lite.projects.__path__)))
MODELS = sorted(PROJECTS.glob("*/configs/models/*.py"))
LEAVES = sorted(PROJECTS.glob("*/configs/*.py"))


def name(path):
    return path.relative_to(PROJECTS).as_posix()


@pytest.mark.parametrize("path", MODELS, ids=name)
def test_model_config(path):
    cfg = LazyConfig.load(str(path))
    assert list(cfg) == ["model"]
    validate(cfg)
    assert "num_classes" in cfg.model


@pytest.mark.parametrize("path", LEAVES, ids=name)
def test_leaf_config(path):
    cfg = LazyConfig.load(str(path))
    assert {"model", "dataloader", "optimizer", "lr_multiplier", "train"} <= set(cfg)
    for key in [key for key in cfg.get("dataset", {}) if OmegaConf.is_missing(cfg.dataset, key)]:
        cfg.dataset[key] = "somewhere"  # what the user fills in
    if OmegaConf.is_missing(cfg.model, "num_classes"):
        cfg.model.num_classes = 2
    validate(cfg)
    assert f"--config-file projects/{name(path)}" in path.read_text()


def test_there_are_configs():
    assert len(MODELS) >= 5
    assert len(LEAVES) >= 9
