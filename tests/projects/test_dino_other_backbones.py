"""DINO on backbones of this project: FocalNet, InternImage, ViTDet, EVA-01 and EVA-02. Models are small."""

from pathlib import Path

import pytest
import torch

import detrex_lite.projects
from detrex_lite.checkpoint import convert_state_dict, load_checkpoint
from detrex_lite.config import LazyConfig, instantiate
from detrex_lite.testing import build
from tests.suites import first_always

from .dino_backbones import DinoContract, assert_maps_of_all_levels, small_dino
from .published import under_detrex_names

CONFIGS = Path(next(iter(detrex_lite.projects.__path__))) / "dino" / "configs"
KINDS = ("focalnet", "internimage", "vitdet", "eva")
MODELS = sorted(path for kind in KINDS for path in CONFIGS.glob(f"models/dino_{kind}_*.py"))

SMALL_VIT = {
    "backbone.net.embed_dim": 16,
    "backbone.net.depth": 2,
    "backbone.net.num_heads": 2,
    "backbone.net.hidden_dim": 32,
    "backbone.net.window_size": 2,
    "backbone.net.global_blocks": [1],
    "backbone.net.drop_path_rate": 0.0,
    "backbone.net.freeze_patch_embed": False,
    "backbone.out_channels": 16,
}
BACKBONES = {
    "focalnet": (
        "dino_focalnet_large_3level",
        {"backbone.embed_dim": 8, "backbone.depths": [1, 1, 1, 1], "backbone.drop_path_rate": 0.0},
    ),
    "internimage": (
        "dino_internimage_tiny",
        {
            "backbone.embed_dim": 8,
            "backbone.depths": [1, 1, 1, 1],
            "backbone.groups": [2, 2, 2, 2],
            "backbone.drop_path_rate": 0.0,
        },
    ),
    "vitdet": ("dino_vitdet_base", SMALL_VIT),
    "eva_01": ("dino_eva_01", SMALL_VIT),
    "eva_02": ("dino_eva_02_base_1024", {**SMALL_VIT, "backbone.square_size": 128}),
}


def small_config(backbone):
    model, small = BACKBONES[backbone]
    return small_dino(model, **small)


class TestDino(DinoContract):
    backbones = BACKBONES

    @pytest.fixture(autouse=True, params=first_always(BACKBONES))
    def _backbone(self, request):
        self.backbone = request.param


@pytest.mark.parametrize("path", first_always(MODELS, 2), ids=lambda path: path.stem)
def test_every_model_config_builds(path):
    assert_maps_of_all_levels(path)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("dino_eva_*.py")), ids=lambda path: path.stem)
def test_the_learning_rate_of_vits_decays_layer_by_layer(path):
    cfg = LazyConfig.load(str(path))
    factor = instantiate(cfg.optimizer.params.lr_factor_func)
    depth = cfg.model.backbone.net.depth
    assert factor("backbone.net.patch_embed.proj.weight") == pytest.approx(factor.rate ** (depth + 1))
    assert factor(f"backbone.net.blocks.{depth - 1}.norm1.weight") == pytest.approx(factor.rate)
    assert factor("transformer.level_embeds") == 1
    if cfg.model.backbone.square_size:
        sizes = [cfg.dataloader.train.mapper.augmentation.image_size, cfg.dataloader.test.mapper.augmentation.max_size]
        assert sizes == [cfg.model.backbone.square_size] * 2


@pytest.mark.parametrize("backbone", BACKBONES)
def test_detrex_checkpoints_load(backbone):
    """Backbones have the names of detrex, which also stores rotary positions, although these are constants."""
    model, loaded = build(small_config(backbone)), build(small_config(backbone), seed=1)
    state = under_detrex_names(model.state_dict(), label_embedding="label_enc.")
    if backbone == "eva_02":
        for module in ("rope_win", "rope_glb", "blocks.0.attn.rope", "blocks.1.attn.rope"):
            state.update({f"backbone.net.{module}.freqs_{part}": torch.ones(4, 8) for part in ("cos", "sin")})
    report = load_checkpoint(loaded, state)
    assert (report.key_map, report.missing, report.unexpected, report.mismatched) == ("detrex", [], [], [])
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    converted = convert_state_dict(model.state_dict(), "detrex")
    assert {name for name in state if "freqs_" not in name} == set(converted)
