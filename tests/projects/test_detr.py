"""DETR as a whole. Models are small; their structure is that of the configs."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.checkpoint import load_checkpoint
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
    predict,
    without_dropout,
)

from .published import PROJECTS, huggingface_resnet_config, huggingface_weights

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


class TestPreNormDETR(DetectorContract):
    """The small model, which reads a finer map, trains its batch norms, and normalises first."""

    def config(self, **changes):
        cfg = get_config("projects/detr/configs/models/detr_small.py").model
        small = {
            "num_classes": NUM_CLASSES,
            "num_queries": NUM_QUERIES,
            "transformer.encoder.num_layers": 2,
            "transformer.decoder.num_layers": 2,
        }
        return changed(cfg, {**small, **changes})


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.py")), ids=lambda path: path.stem)
def test_every_model_config_builds(path):
    model, cfg = build_on_meta(path)
    assert model.num_classes == cfg.num_classes == 80
    assert len(model.heads.class_embed) == cfg.transformer.decoder.num_layers
    assert {head.out_features for head in model.heads.class_embed} == {81}
    assert ("dc5" in path.stem) == cfg.backbone.get("dilation", False)


def test_pre_norm_layers_are_followed_by_a_norm():
    post_norm, pre_norm = build(small_config()), build(small_config(**PRE_NORM))
    assert post_norm.transformer.encoder.norm is None
    assert pre_norm.transformer.encoder.norm.weight.shape == (64,)


def test_all_layers_have_the_same_heads():
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


# The names of transformers' DetrForObjectDetection.
HUGGINGFACE_RULES = (
    (r"^class_labels_classifier\.", "heads.class_embed.0."),
    (r"^model\.query_position_embeddings\.", "queries.embedding."),
)


def test_agrees_with_transformers_implementation(batch):
    transformers = pytest.importorskip("transformers")
    from transformers import DetrConfig, DetrForObjectDetection

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    theirs = DetrForObjectDetection(
        DetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone_config=huggingface_resnet_config("stage4"),
            d_model=64,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=96,
            decoder_ffn_dim=96,
            num_queries=NUM_QUERIES,
            num_labels=NUM_CLASSES,
        )
    ).double()
    for parameter in theirs.parameters():  # fresh weights are too small and too alike to tell models apart
        torch.nn.init.normal_(parameter, std=0.2) if parameter.dim() == 1 else torch.nn.init.xavier_normal_(parameter)
    theirs.eval()

    ours = build(without_dropout(small_config())).double().eval()
    report = load_checkpoint(ours, huggingface_weights(theirs.state_dict(), HUGGINGFACE_RULES))
    assert report.missing == []
    assert report.unexpected == []

    # That implementation runs images in one padded batch always, and what it does with padding is what is published.
    with torch.no_grad():
        images = ours.preprocess(batch, as_published=True)
        got = predict(ours, batch, as_published=True)[""]
        want = theirs(images.tensor, pixel_mask=(~images.mask).long())
    assert_close(got.logits, want.logits, rtol=1e-6, atol=1e-6)
    assert_close(got.boxes, want.pred_boxes, rtol=1e-6, atol=1e-6)
    assert got.logits.std() > 0.1
