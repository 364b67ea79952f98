"""DINO on networks of timm: Swin and ConvNeXt. Models are small except Swin-T."""

import re
from pathlib import Path

import pytest
import torch

import detrex_lite.projects
from detrex_lite.checkpoint import load_checkpoint
from detrex_lite.config import LazyConfig, instantiate
from detrex_lite.testing import build
from tests.suites import first_always

from .dino_backbones import DinoContract, assert_maps_of_all_levels, small_dino
from .published import under_detrex_names

timm = pytest.importorskip("timm", reason="the package timm is not installed")

CONFIGS = Path(next(iter(detrex_lite.projects.__path__))) / "dino" / "configs"
WITH_TIMM = sorted(path for kind in ("swin", "convnext") for path in CONFIGS.glob(f"**/dino_{kind}_*.py"))

# In small images the fourth level of a ConvNeXt would be a single row, for which torch.compile makes another graph.
SMALL_CONVNEXT = {"backbone.model_name": "test_convnext", "transformer.num_feature_levels": 3}

BACKBONES = {
    "convnext": ("dino_convnext_tiny_384", SMALL_CONVNEXT),
    "swin": ("dino_swin_tiny_224", {}),
}


def small_config(backbone):
    model, small = BACKBONES[backbone]
    return small_dino(model, **small)


class TestDinoOnTimm(DinoContract):
    backbones = BACKBONES

    @pytest.fixture(autouse=True, params=first_always(BACKBONES))
    def _backbone(self, request):
        self.backbone = request.param
        self.compiles_whole = self.backbone == "convnext"


@pytest.mark.parametrize(
    "path", first_always(path for path in WITH_TIMM if path.parent != CONFIGS), ids=lambda path: path.stem
)
def test_every_model_config_builds(path):
    assert_maps_of_all_levels(path)


def test_other_stages_are_set_by_their_indices_alone(batch):
    cfg = small_dino(
        "dino_convnext_tiny_384",
        **{**SMALL_CONVNEXT, "backbone.out_indices": [0, 1, 2, 3], "transformer.num_feature_levels": 5},
    )
    assert all(torch.isfinite(loss) for loss in build(cfg).train()(batch).values())


@pytest.mark.parametrize(
    "path", first_always(path for path in WITH_TIMM if path.parent == CONFIGS), ids=lambda path: path.stem
)
def test_pretrained_weights_of_training_configs_are_published(path):
    backbone = LazyConfig.load(str(path)).model.backbone
    assert f"{backbone.model_name}.{backbone.weights}" in timm.list_models(pretrained=True)


# names in this project -> names in detrex
DETREX_NAMES = {
    "swin": (
        (r"^backbone\.norms\.stage", "backbone.norm"),
        (r"^backbone\.model\.layers\.1\.downsample\.", "backbone.layers.0.downsample."),
        (r"^backbone\.model\.layers\.2\.downsample\.", "backbone.layers.1.downsample."),
        (r"^backbone\.model\.layers\.3\.downsample\.", "backbone.layers.2.downsample."),
        (r"^backbone\.model\.", "backbone."),
    ),
    "convnext": (
        (r"^backbone\.norms\.stage", "backbone.norm"),
        (r"^backbone\.model\.stem\.", "backbone.downsample_layers.0."),
        (r"^backbone\.model\.stages\.(\d)\.downsample\.", r"backbone.downsample_layers.\1."),
        (r"^backbone\.model\.stages\.(\d)\.blocks\.(\d+)\.", r"backbone.stages.\1.\2."),
        (r"^(backbone\..*)\.conv_dw\.", r"\1.dwconv."),
        (r"^(backbone\..*)\.mlp\.fc", r"\1.pwconv"),
    ),
}


@pytest.mark.parametrize("backbone", DETREX_NAMES)
def test_detrex_checkpoints_load(backbone):
    model, loaded = build(small_config(backbone)), build(small_config(backbone), seed=1)
    state = {"backbone.layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.long)}
    for name, value in under_detrex_names(model.state_dict(), label_embedding="label_enc.").items():
        for pattern, replacement in DETREX_NAMES[backbone]:
            name = re.sub(pattern, replacement, name)
        state[name] = value
    assert not [name for name in state if name.startswith(("backbone.model.", "backbone.norms."))]
    report = load_checkpoint(loaded, state)
    assert (report.missing, report.unexpected, report.mismatched) == ([], [], [])
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_the_error_for_an_unknown_network_names_it_and_its_key_in_the_config():
    cfg = small_dino("dino_convnext_tiny_384", **{**SMALL_CONVNEXT, "backbone.model_name": "convnext_tony"})
    with pytest.raises(ValueError, match="model.backbone: .*TimmBackbone .* no model 'convnext_tony'"):
        instantiate(cfg)
