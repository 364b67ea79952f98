"""Every shipped config is complete: it loads, is valid and begins with the command that runs it."""

import inspect
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

import detrex_lite.projects
from detrex_lite.config import LazyConfig, get_config, instantiate, locate, validate
from detrex_lite.modeling import GroupDenoising, SetCriterion
from tests.suites import first_of_each

PROJECTS = Path(next(iter(detrex_lite.projects.__path__)))
MODELS = sorted(PROJECTS.glob("*/configs/models/*.py"))
LEAVES = sorted(PROJECTS.glob("*/configs/*.py"))


def name(path):
    return path.relative_to(PROJECTS).as_posix()


def targets(node):
    """All classes and functions that a config calls."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield locate(node._target_) if isinstance(node._target_, str) else node._target_
        for child in node.values():
            yield from targets(child)


@pytest.mark.parametrize("path", MODELS, ids=name)
def test_model_configs_are_valid(path):
    cfg = LazyConfig.load(str(path))
    assert list(cfg) == ["model"]
    validate(cfg)
    assert "num_classes" in cfg.model
    # A misspelt key would not be noticed by a function with `**` arguments.
    for target in set(targets(cfg.model)) - {dict}:
        kinds = {parameter.kind for parameter in inspect.signature(target).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds, target


@pytest.mark.parametrize("path", first_of_each(LEAVES, lambda path: path.parents[1]), ids=name)
def test_leaf_configs_are_valid_and_name_their_command(path, tmp_path):
    annotations = tmp_path / "annotations.json"  # a value that users fill in
    annotations.write_text('{"images": [], "categories": [{"id": 1, "name": "cell"}]}')
    cfg = LazyConfig.load(str(path))
    assert {"model", "dataloader", "optimizer", "lr_multiplier", "train"} <= set(cfg)
    for key in [key for key in cfg.get("dataset", {}) if OmegaConf.is_missing(cfg.dataset, key)]:
        cfg.dataset[key] = str(annotations)
    if OmegaConf.is_missing(cfg.model, "num_classes"):
        cfg.model.num_classes = 2
    validate(cfg)
    assert f"detrex-lite train projects/{name(path)}" in path.read_text()


def test_common_criterion_and_denoising_build_and_are_not_shared():
    criterion = get_config("common/criterion.py").focal_criterion
    criterion.weights.loss_class = 7.0
    assert isinstance(instantiate(criterion), SetCriterion)
    assert get_config("common/criterion.py").focal_criterion.weights.loss_class == 1.0
    model = OmegaConf.create({"num_classes": 3, "embed_dim": 8})
    model.denoising = get_config("common/denoising.py").group_denoising
    built = instantiate(model.denoising)
    assert isinstance(built, GroupDenoising)
    assert built.label_embedding.weight.shape == (4, 7)


def test_configs_are_found():
    assert len(MODELS) >= 5
    assert len(LEAVES) >= 9
