"""DINO on backbones that are written here: FocalNet. Models are small."""

from pathlib import Path

import pytest
import torch

import detrex_lite.projects
from detrex_lite.config import get_config
from detrex_lite.engine.optim import get_param_groups
from detrex_lite.testing import SMALL_TRANSFORMER, DetectorContract, build, build_on_meta, changed

CONFIGS = Path(next(iter(detrex_lite.projects.__path__))) / "dino" / "configs"
KINDS = ("focalnet",)
MODELS = sorted(path for kind in KINDS for path in CONFIGS.glob(f"models/dino_{kind}_*.py"))

BACKBONES = {
    "focalnet": (
        "dino_focalnet_large_3level",
        {"backbone.embed_dim": 8, "backbone.depths": [1, 1, 1, 1], "backbone.drop_path_rate": 0.0},
    ),
}


def small_config(backbone, **changes):
    name, its = BACKBONES[backbone]
    cfg = get_config(f"projects/dino/configs/models/{name}.py").model
    return changed(cfg, {**SMALL_TRANSFORMER, "denoising.num_pairs": 6, **its, **changes})


class TestDino(DetectorContract):
    aux_suffixes = frozenset({"_0", "_dn_0"})
    other_suffixes = frozenset({"_enc", "_dn"})
    pixel_tolerance = {"rtol": 1e-6, "atol": 1e-4}  # noqa: RUF012 - where tokens are is float32 in all models

    @pytest.fixture(autouse=True, params=BACKBONES)
    def _backbone(self, request):
        self.backbone = request.param

    def config(self, **changes):
        return small_config(self.backbone, **changes)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_model_config_builds(path):
    model, cfg = build_on_meta(path)
    with torch.device("meta"):
        maps = model.eval().feature_maps(torch.empty(1, 3, 800, 1216))
    finest = 4 if cfg.transformer.num_feature_levels == 5 else 8
    strides = [finest << level for level in range(cfg.transformer.num_feature_levels)]
    assert [tuple(one.shape) for one in maps] == [(1, 256, -(-800 // s), -(-1216 // s)) for s in strides]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_changes_all_weights(backbone, batch):
    model = build(small_config(backbone)).train()
    optimizer = torch.optim.AdamW(get_param_groups(model, base_lr=1e-3, backbone_lr_factor=0.1))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    sum(model(batch).values()).backward()
    optimizer.step()
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []
