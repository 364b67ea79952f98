"""Conditional DETR as a whole: the class of DETR with other parts. Models are small."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.config import get_config
from detrex_lite.modeling import FINAL, Memory, Queries, QueryBlock
from detrex_lite.testing import (
    NUM_QUERIES,
    SMALL,
    DetectorContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    has_gradient,
    parameter_patterns,
    predict,
)
from tests.suites import first_always

from .published import PROJECTS

CONFIGS = PROJECTS / "conditional_detr" / "configs"


def small_config(**changes):
    cfg = get_config("projects/conditional_detr/configs/models/conditional_detr_r50.py").model
    return changed(cfg, {**SMALL, **changes})


class TestConditionalDETR(DetectorContract):
    def config(self, **changes):
        return small_config(**changes)


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("models/*.py"))), ids=lambda path: path.stem)
def test_every_model_config_builds(path):
    model, cfg = build_on_meta(path)
    assert {head.out_features for head in model.heads.class_embed} == {cfg.num_classes}
    assert model.queries.embedding.weight.shape == (300, 256)
    assert ("dc5" in path.stem) == cfg.backbone.get("dilation", False)


def test_initial_boxes_are_centred_at_points_predicted_from_positions(batch):
    model = build(small_config()).eval()
    with torch.no_grad():
        named = predict(model, batch)
        points = model.transformer.decoder.ref_point_head(model.queries.embedding.weight).sigmoid()
    for predictions in named.values():
        assert_close(predictions.boxes[..., :2], points.expand(len(batch), -1, -1))
        assert_close(predictions.boxes[..., 2:], torch.full((len(batch), NUM_QUERIES, 2), 0.5))


def test_every_layer_has_gradients_in_the_head_of_the_points(batch):
    model = build_randomised(small_config()).train()
    for name in ("", "_0"):
        model.zero_grad()
        predict(model, batch)[name].boxes.square().sum().backward()
        assert has_gradient(model.transformer.decoder.ref_point_head)


def test_queries_without_positions_raise_an_error():
    decoder = build(small_config()).transformer.decoder
    queries = Queries([QueryBlock(FINAL, torch.zeros(1, 3, 64), None)])
    with pytest.raises(ValueError, match="ConditionalDecoder.*positions"):
        decoder(queries, Memory(torch.zeros(1, 4, 64), None, None), None)


def test_parameter_names_are_stable():
    model = build(small_config())
    layer = {"ffns.N.layers.N.*", "norms.N.*"}
    plain = {"attentions.N.in_proj_weight", "attentions.N.in_proj_bias", "attentions.N.out_proj.*"}
    parts = {f"{side}_{kind}" for side in ("query", "key") for kind in ("content", "pos")} | {"value", "query_pos_sine"}
    conditional = {f"attentions.N.{part}_proj.*" for part in parts | {"out"}}
    expected = {"input_proj.*", "queries.embedding.*"}
    expected |= {"heads.class_embed.N.*", "heads.bbox_embed.N.layers.N.*", "heads.norm.*"}
    expected |= {f"transformer.encoder.layers.N.{name}" for name in layer | plain}
    expected |= {f"transformer.decoder.layers.N.{name}" for name in layer | conditional}
    expected |= {f"transformer.decoder.{head}.layers.N.*" for head in ("ref_point_head", "query_scale")}
    assert parameter_patterns(model) == expected
    crosses = [layer.attentions[1] for layer in model.transformer.decoder.layers]
    assert [cross.query_pos_proj is not None for cross in crosses] == [True, False]
