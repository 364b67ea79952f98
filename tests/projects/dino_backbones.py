"""Tests of DINO with any backbone: the contract of detectors, with models that are small except for the backbone."""

import torch

from detrex_lite.config import get_config
from detrex_lite.engine.loop.optim import get_param_groups
from detrex_lite.testing import SMALL_TRANSFORMER, DetectorContract, build_on_meta, build_randomised, changed


def small_dino(model, **changes):
    """Return the config of a model of the project with a small transformer."""
    cfg = get_config(f"projects/dino/configs/models/{model}.py").model
    return changed(cfg, {**SMALL_TRANSFORMER, "denoising.num_pairs": 6, **changes})


def assert_maps_of_all_levels(path):
    """Check that a model config has maps of the strides 8, 16, ..., or 4, 8, ... for five levels."""
    model, cfg = build_on_meta(path)
    with torch.device("meta"):
        maps = model.eval().feature_maps(torch.empty(1, 3, 800, 1216))
    finest = 4 if cfg.transformer.num_feature_levels == 5 else 8
    strides = [finest << level for level in range(cfg.transformer.num_feature_levels)]
    assert [tuple(level.shape) for level in maps] == [(1, 256, -(-800 // s), -(-1216 // s)) for s in strides]


class DinoContract(DetectorContract):
    """Subclasses name the models to test.

    Attributes:
        backbones: maps names to a model config of the project and the changes that make its backbone small.
    """

    aux_suffixes = frozenset({"_0", "_dn_0"})
    other_suffixes = frozenset({"_enc", "_dn"})
    pixel_tolerance = {"rtol": 1e-6, "atol": 1e-4}  # noqa: RUF012 - token locations are float32 in all models

    def config(self, **changes):
        model, small = self.backbones[self.backbone]
        return small_dino(model, **{**small, **changes})

    def test_a_step_changes_all_weights(self, batch):
        model = build_randomised(self.config()).train()
        optimizer = torch.optim.AdamW(get_param_groups(model, base_lr=1e-3, backbone_lr_factor=0.1))
        initial = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        sum(model(batch).values()).backward()
        optimizer.step()
        assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, initial[name])] == []
