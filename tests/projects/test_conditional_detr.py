"""Conditional DETR as a whole, which is DETR's class with other parts. Models are small."""

import re

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.checkpoint import load_checkpoint
from detrex_lite.config import get_config
from detrex_lite.modeling import FINAL, Memory, Queries, QueryBlock
from detrex_lite.testing import (
    NUM_CLASSES,
    NUM_QUERIES,
    SMALL,
    DetectorContract,
    build,
    build_lively,
    build_on_meta,
    changed,
    has_gradient,
    parameter_patterns,
    predict,
    without_dropout,
)

from .published import PROJECTS, huggingface_resnet_config, huggingface_weights

CONFIGS = PROJECTS / "conditional_detr" / "configs"


def small_config(**changes):
    cfg = get_config("projects/conditional_detr/configs/models/conditional_detr_r50.py").model
    return changed(cfg, {**SMALL, **changes})


class TestConditionalDETR(DetectorContract):
    def config(self, **changes):
        return small_config(**changes)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("models/*.py")), ids=lambda path: path.stem)
def test_every_model_config_builds(path):
    model, cfg = build_on_meta(path)
    assert {head.out_features for head in model.heads.class_embed} == {cfg.num_classes}
    assert model.queries.embedding.weight.shape == (300, 256)
    assert ("dc5" in path.stem) == cfg.backbone.get("dilation", False)


def test_boxes_begin_around_points_that_follow_from_positions(batch):
    model = build(small_config()).eval()
    with torch.no_grad():
        named = predict(model, batch)
        points = model.transformer.decoder.ref_point_head(model.queries.embedding.weight).sigmoid()
    for predictions in named.values():
        assert_close(predictions.boxes[..., :2], points.expand(len(batch), -1, -1))
        assert_close(predictions.boxes[..., 2:], torch.full((len(batch), NUM_QUERIES, 2), 0.5))


def test_every_layer_attends_around_the_same_points_and_teaches_them(batch):
    model = build_lively(small_config()).train()
    for name in ("", "_0"):
        model.zero_grad()
        predict(model, batch)[name].boxes.square().sum().backward()
        assert has_gradient(model.transformer.decoder.ref_point_head)


def test_the_decoder_needs_positions():
    decoder = build(small_config()).transformer.decoder
    queries = Queries([QueryBlock(FINAL, torch.zeros(1, 3, 64), None)])
    with pytest.raises(ValueError, match="ConditionalDecoder.*positions"):
        decoder(queries, Memory(torch.zeros(1, 4, 64), None, None), None)


def test_parameter_names_are_stable():
    model = build(small_config())
    layer = {"ffns.N.layers.N.*", "norms.N.*"}
    plain = {"attentions.N.in_proj_weight", "attentions.N.in_proj_bias", "attentions.N.out_proj.*"}
    parts = {f"{one}_{kind}" for one in ("query", "key") for kind in ("content", "pos")} | {"value", "query_pos_sine"}
    conditional = {f"attentions.N.{part}_proj.*" for part in parts | {"out"}}
    want = {"input_proj.*", "queries.embedding.*"}
    want |= {"heads.class_embed.N.*", "heads.bbox_embed.N.layers.N.*", "heads.norm.*"}
    want |= {f"transformer.encoder.layers.N.{name}" for name in layer | plain}
    want |= {f"transformer.decoder.layers.N.{name}" for name in layer | conditional}
    want |= {f"transformer.decoder.{head}.layers.N.*" for head in ("ref_point_head", "query_scale")}
    assert parameter_patterns(model) == want
    crosses = [layer.attentions[1] for layer in model.transformer.decoder.layers]
    assert [cross.query_pos_proj is not None for cross in crosses] == [True, False]


# The names of transformers' ConditionalDetrForObjectDetection.
PROJECTIONS = {"q_content": "query_content", "q_pos": "query_pos", "k_content": "key_content", "k_pos": "key_pos"}
HUGGINGFACE_RULES = (
    (r"^class_labels_classifier\.", "heads.class_embed.0."),
    (r"^model\.query_position_embeddings\.", "queries.embedding."),
    (r"\.q_pos_sine_proj\.", ".query_pos_sine_proj."),
    *((rf"\.{theirs}_proj\.", f".{ours}_proj.") for theirs, ours in PROJECTIONS.items()),
)


def huggingface_model():
    from transformers import ConditionalDetrConfig, ConditionalDetrForObjectDetection

    torch.manual_seed(0)
    model = ConditionalDetrForObjectDetection(
        ConditionalDetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
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
    for name, parameter in model.named_parameters():  # fresh weights are too small and too alike to tell models apart
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
        elif "embeddings" in name:
            torch.nn.init.normal_(parameter)
        else:  # boxes must not run into the borders, where all are alike
            torch.nn.init.xavier_normal_(parameter, gain=1.0 if "bbox" in name else 2.0)
    return model.eval()


def test_agrees_with_transformers_implementation(batch):
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    theirs = huggingface_model()
    # Where references are nearer to a border than eps, logits are cut off: at 1e-5 there, at 1e-3 in detrex.
    cfg = without_dropout(small_config(**{"heads.eps": 1e-5, "transformer.mask_memory_padding": True}))
    ours = build(cfg).double().eval()
    # Projections of the decoder are parameters of their own there and here, unlike those of the encoder.
    values = re.compile(r"(decoder\.layers\.\d+\.\w+_attn)\.v_proj\.")
    state = {values.sub(r"\1.value_proj.", name): value for name, value in theirs.state_dict().items()}
    report = load_checkpoint(ours, huggingface_weights(state, HUGGINGFACE_RULES))
    assert report.missing == []
    assert report.unexpected == []
    with torch.no_grad():
        images = ours.preprocess(batch, as_published=True)
        got = predict(ours, batch, as_published=True)[""]
        want = theirs(images.tensor, pixel_mask=(~images.mask).long())
    for mine, other in (got.logits, want.logits), (got.boxes, want.pred_boxes):
        assert_close(mine, other, rtol=1e-6, atol=1e-6)
        assert mine.std(dim=(0, 1)).min() > 1e-3  # images and queries differ by far more than what is tolerated
