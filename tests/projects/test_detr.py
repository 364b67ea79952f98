"""DETR as a whole. Models are small; their structure is that of the configs."""

import re

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.checkpoint import load_checkpoint
from detrex_lite.config import get_config, instantiate

from .contract import (
    NUM_CLASSES,
    NUM_QUERIES,
    DetectorContract,
    build,
    changed,
    huggingface_resnet_config,
    huggingface_weights,
)

MODELS = "projects/detr/configs/models"


def small_config(name="detr_small", **changes):
    cfg = get_config(f"{MODELS}/{name}.py").model
    small = {
        "num_classes": NUM_CLASSES,
        "num_queries": NUM_QUERIES,
        "transformer.encoder.num_layers": 2,
        "transformer.decoder.num_layers": 2,
    }
    return changed(cfg, {**small, **changes})


class TestDETR(DetectorContract):
    def config(self, **changes):
        return small_config(**changes)

    @pytest.mark.parametrize("pre_norm", [False, True])
    def test_an_image_gives_the_same_detections_alone_and_in_a_padded_batch(self, batch, pre_norm):
        self.config = lambda: small_config(**{"transformer.encoder.pre_norm": pre_norm})
        super().test_an_image_gives_the_same_detections_alone_and_in_a_padded_batch(batch)


@pytest.mark.parametrize("name", ["detr_r50", "detr_r101", "detr_r50_dc5", "detr_r101_dc5", "detr_small"])
def test_every_model_config_builds(name):
    with torch.device("meta"):
        model = instantiate(get_config(f"{MODELS}/{name}.py").model)
    assert model.num_classes == 80
    assert model.class_embed.out_features == 81


def test_parameter_names_are_stable():
    model = build(small_config("detr_small"))
    names = {re.sub(r"\.\d+\.", ".N.", name) for name in model.state_dict() if not name.startswith("backbone.")}
    attention = {f"{part}_proj{end}" for part, end in [("in", "_weight"), ("in", "_bias"), ("out", ".weight")]}
    assert {f"transformer.encoder.layers.N.attentions.N.{name}" for name in attention} <= names
    assert {
        "query_embed.weight",
        "input_proj.weight",
        "class_embed.weight",
        "bbox_embed.layers.N.weight",
        "transformer.decoder.layers.N.ffns.N.layers.N.weight",
        "transformer.decoder.layers.N.norms.N.weight",
        "transformer.decoder.post_norm_layer.weight",
    } <= names


# The names of transformers' DetrForObjectDetection.
HUGGINGFACE_RULES = (
    (r"^class_labels_classifier\.", "class_embed."),
    (r"^model\.query_position_embeddings\.", "query_embed."),
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
            encoder_attention_heads=8,
            decoder_attention_heads=8,
            encoder_ffn_dim=96,
            decoder_ffn_dim=96,
            num_queries=7,
            num_labels=5,
        )
    ).double()
    for parameter in theirs.parameters():  # fresh weights are too small and too alike to tell models apart
        torch.nn.init.normal_(parameter, std=0.2) if parameter.dim() == 1 else torch.nn.init.xavier_normal_(parameter)
    theirs.eval()

    cfg = small_config("detr_r50", embed_dim=64, in_channels=512)
    cfg.backbone.depth = 18
    cfg.position_embedding.num_pos_feats = 32
    cfg.transformer.encoder.feedforward_dim = 96
    cfg.transformer.encoder.dropout = 0.0
    # In training mode images run in one padded batch, as that implementation runs them always.
    ours = build(cfg).double().train()
    report = load_checkpoint(ours, huggingface_weights(theirs.state_dict(), HUGGINGFACE_RULES))
    assert report.missing == []
    assert report.unexpected == []

    with torch.no_grad():
        images = ours.preprocess(batch)
        got = ours.predict(images)[""]
        want = theirs(images.tensor, pixel_mask=(~images.mask).long())
    assert_close(got.logits, want.logits, rtol=1e-6, atol=1e-6)
    assert_close(got.boxes, want.pred_boxes, rtol=1e-6, atol=1e-6)
    assert got.logits.std() > 0.1
