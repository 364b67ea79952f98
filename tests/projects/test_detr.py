"""DETR as a whole. Models are small; their structure is that of the configs."""

import pytest

from detrex_lite.config import get_config
from detrex_lite.testing import (
    NUM_CLASSES,
    NUM_QUERIES,
    SMALL,
    DetectorContract,
    build,
    build_on_meta,
    changed,
    parameter_patterns,
)
from tests.suites import first_always

from .published import PROJECTS

MODELS = PROJECTS / "detr" / "configs" / "models"

PRE_NORM = {
    "transformer.encoder.layer.operation_order": ["norm", "self_attn", "norm", "ffn"],
    "transformer.decoder.layer.operation_order": ["norm", "self_attn", "norm", "cross_attn", "norm", "ffn"],
}


def small_config(**changes):
    cfg = get_config("projects/detr/configs/models/detr_r50.py").model
    return changed(cfg, {**SMALL, **changes})


class TestDETR(DetectorContract):
    def config(self, **changes):
        return small_config(**changes)


@pytest.mark.slow
class TestPreNormDETR(DetectorContract):
    """The small model: a finer feature map, trained batch norms, and layers that normalise first."""

    def config(self, **changes):
        cfg = get_config("projects/detr/configs/models/detr_small.py").model
        small = {
            "num_classes": NUM_CLASSES,
            "num_queries": NUM_QUERIES,
            "transformer.encoder.num_layers": 2,
            "transformer.decoder.num_layers": 2,
        }
        return changed(cfg, {**small, **changes})


@pytest.mark.parametrize("path", first_always(sorted(MODELS.glob("*.py"))), ids=lambda path: path.stem)
def test_every_model_config_builds(path):
    model, cfg = build_on_meta(path)
    num_classes = 133 if "panoptic" in path.stem else 80
    assert model.num_classes == cfg.num_classes == num_classes
    assert len(model.heads.class_embed) == cfg.transformer.decoder.num_layers
    assert {head.out_features for head in model.heads.class_embed} == {num_classes + 1}
    assert ("dc5" in path.stem) == cfg.backbone.get("dilation", False)


@pytest.mark.parametrize("path", sorted(MODELS.parent.glob("*_small_*.py")), ids=lambda path: path.stem)
def test_every_config_of_a_small_model_builds(path):
    """Configs of the other models change only data and schedules; some of these change the model."""
    model, cfg = build_on_meta(path)
    assert cfg.backbone.out_features == [cfg.in_feature]
    assert model.num_classes == 3


def test_a_pre_norm_encoder_has_a_final_norm():
    post_norm, pre_norm = build(small_config()), build(small_config(**PRE_NORM))
    assert post_norm.transformer.encoder.norm is None
    assert pre_norm.transformer.encoder.norm.weight.shape == (64,)


def test_all_layers_share_their_heads():
    heads = build(small_config()).heads
    assert heads.class_embed[0] is heads.class_embed[1]
    assert heads.bbox_embed[0] is heads.bbox_embed[1]


def test_parameter_names_are_stable():
    attention = {f"attentions.N.{name}" for name in ("in_proj_weight", "in_proj_bias", "out_proj.*")}
    layer = {"ffns.N.layers.N.*", "norms.N.*", *attention}
    assert parameter_patterns(build(small_config())) == {
        "input_proj.*",
        "queries.embedding.*",
        "heads.class_embed.N.*",
        "heads.bbox_embed.N.layers.N.*",
        "heads.norm.*",
        *(f"transformer.{part}.layers.N.{name}" for part in ("encoder", "decoder") for name in layer),
    }
