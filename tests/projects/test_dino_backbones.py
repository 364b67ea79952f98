"""DINO on networks of timm: Swin and ConvNeXt. Models are small, but for the Swin-T."""

import re
from pathlib import Path

import pytest
import torch

import detrex_lite.projects
from detrex_lite.checkpoint import load_checkpoint
from detrex_lite.config import LazyConfig, get_config, instantiate
from detrex_lite.engine.loop.optim import get_param_groups
from detrex_lite.testing import SMALL_TRANSFORMER, DetectorContract, build, build_on_meta, changed

from .published import under_detrex_names

timm = pytest.importorskip("timm", reason="the package timm is not installed")

CONFIGS = Path(next(iter(detrex_lite.projects.__path__))) / "dino" / "configs"
WITH_TIMM = sorted(path for kind in ("swin", "convnext") for path in CONFIGS.glob(f"**/dino_{kind}_*.py"))

# In small images the fourth level of a ConvNeXt would be a single row, for which compiling makes a graph of its own.
SMALL_CONVNEXT = {"backbone.model_name": "test_convnext", "transformer.num_feature_levels": 3}

BACKBONES = {
    "convnext": ("dino_convnext_tiny_384", SMALL_CONVNEXT),
    "swin": ("dino_swin_tiny_224", {}),
}


def small_config(backbone, **changes):
    name, its = BACKBONES[backbone]
    cfg = get_config(f"projects/dino/configs/models/{name}.py").model
    return changed(cfg, {**SMALL_TRANSFORMER, "denoising.num_pairs": 6, **its, **changes})


class TestDinoOnTimm(DetectorContract):
    aux_suffixes = frozenset({"_0", "_dn_0"})
    other_suffixes = frozenset({"_enc", "_dn"})
    pixel_tolerance = {"rtol": 1e-6, "atol": 1e-4}  # noqa: RUF012 - where tokens are is float32 in all models

    @pytest.fixture(autouse=True, params=BACKBONES)
    def _backbone(self, request):
        self.backbone = request.param
        self.compiles_whole = self.backbone == "convnext"

    def config(self, **changes):
        return small_config(self.backbone, **changes)


@pytest.mark.parametrize("path", [path for path in WITH_TIMM if path.parent != CONFIGS], ids=lambda path: path.stem)
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


def test_other_stages_need_no_other_change(batch):
    cfg = small_config("convnext", **{"backbone.out_indices": [0, 1, 2, 3], "transformer.num_feature_levels": 5})
    assert all(torch.isfinite(loss) for loss in build(cfg).train()(batch).values())


@pytest.mark.parametrize("path", [path for path in WITH_TIMM if path.parent == CONFIGS], ids=lambda path: path.stem)
def test_the_weights_that_training_starts_from_are_published(path):
    backbone = LazyConfig.load(str(path)).model.backbone
    assert f"{backbone.model_name}.{backbone.weights}" in timm.list_models(pretrained=True)


# Names here -> names in detrex.
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


def test_a_network_that_timm_does_not_have_is_named_with_its_place_in_the_config():
    cfg = small_config("convnext", **{"backbone.model_name": "convnext_tony"})
    with pytest.raises(
        ValueError, match="model.backbone: .*TimmBackbone failed: .* no model 'convnext_tony'; did you mean"
    ):
        instantiate(cfg)
