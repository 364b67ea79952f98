"""RF-DETR as a whole. Models are small; their structure is that of the configs."""

import pytest
import torch

from detrex_lite.config import LazyConfig, get_config, instantiate
from detrex_lite.testing import DeformableContract, build_on_meta, changed
from tests.suites import first_always

from .published import PROJECTS
from .test_lwdetr import SMALL


def small_config(**changes):
    cfg = get_config("projects/rfdetr/configs/models/rfdetr_nano.py").model
    return changed(cfg, {**SMALL, **changes})


class TestRFDETR(DeformableContract):
    other_suffixes = frozenset({"_enc"})

    def config(self, **changes):
        return small_config(**changes)


# Millions of parameters as published, with the mask token (384 parameters) and 91 classes.
PARAMETERS = {"nano": 30.5, "small": 32.1, "medium": 33.7, "large": 33.9}


@pytest.mark.parametrize("size", first_always(PARAMETERS))
def test_models_have_the_parameters_of_the_published_models(size):
    model, cfg = build_on_meta(PROJECTS / "rfdetr" / "configs" / "models" / f"rfdetr_{size}.py")
    rows = sum(cfg.embed_dim + 1 for name, _ in model.named_parameters() if "class_embed" in name and "bias" in name)
    number = sum(parameter.numel() for parameter in model.parameters()) + 11 * rows + 384
    assert round(number / 1e6, 1) == PARAMETERS[size]
    if size == "nano":
        assert number == 30_467_298  # counted in the published code


def settings_of(path):
    """Name of a parameter -> (learning rate, weight decay) in training."""
    cfg = LazyConfig.load(str(path))
    with torch.device("meta"):
        model = instantiate(cfg.model)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    settings = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    return {name: settings[id(parameter)] for name, parameter in model.named_parameters()}


# config -> parameter -> (learning rate, weight decay) of the published recipes
RECIPES = {
    "rfdetr/configs/rfdetr_nano_100ep.py": {
        "backbone.cls_token": (1.5e-4 * 0.49 * 0.8**14, 0),
        "backbone.pos_embed": (1.5e-4 * 0.49 * 0.8**14, 0),
        "backbone.patch_embed.proj.weight": (1.5e-4 * 0.49 * 0.8**14, 0),
        "backbone.blocks.0.attn.qkv.weight": (1.5e-4 * 0.49 * 0.8**13, 1e-4),
        "backbone.blocks.11.mlp.fc1.bias": (1.5e-4 * 0.49 * 0.8**2, 0),
        "backbone.blocks.11.gamma_2": (1.5e-4 * 0.49 * 0.8**2, 0),
        "backbone.norm.weight": (1.5e-4 * 0.49, 0),
        "neck.fusions.0.conv1.norm.weight": (1e-4, 1e-4),
        "transformer.decoder.layers.0.norms.0.weight": (0.7e-4, 1e-4),
        "heads.norm.weight": (0.7e-4, 1e-4),
        "heads.group_heads.12.class_embed.bias": (1e-4, 1e-4),
        "queries.content.weight": (1e-4, 1e-4),
    },
    "lwdetr/configs/lwdetr_tiny_60ep.py": {
        "backbone.pos_embed": (1.5e-4 * 0.49 * 0.8**7, 0),
        "backbone.patch_embed.proj.weight": (1.5e-4 * 0.49 * 0.8**7, 1e-4),
        "backbone.blocks.0.attn.q_bias": (1.5e-4 * 0.49 * 0.8**6, 0),
        "backbone.blocks.5.mlp.fc1.weight": (1.5e-4 * 0.49 * 0.8, 1e-4),
        "transformer.decoder.ref_point_head.layers.0.weight": (0.7e-4, 1e-4),
    },
    "lwdetr/configs/lwdetr_xlarge_60ep.py": {
        "backbone.blocks.0.norm1.weight": (1.5e-4 * 0.25 * 0.75**10, 0),
        "backbone.blocks.9.mlp.fc1.weight": (1.5e-4 * 0.25 * 0.75, 1e-3),
        "transformer.decoder.layers.2.norms.2.bias": (0.5e-4, 1e-3),
        "neck.resamplers.0.0.1.weight": (1e-4, 1e-3),
    },
}


@pytest.mark.parametrize("path", RECIPES)
def test_learning_rates_and_weight_decays_are_as_published(path):
    settings = settings_of(PROJECTS / path)
    for name, (learning_rate, weight_decay) in RECIPES[path].items():
        assert settings[name] == (pytest.approx(learning_rate, rel=1e-12), weight_decay), name
