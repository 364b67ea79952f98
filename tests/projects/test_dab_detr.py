"""DAB-DETR as a whole. Models are small; their structure is that of the configs."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.config import get_config
from detrex_lite.modeling import Memory, Queries, QueryBlock
from detrex_lite.modeling.single_level import modulate
from detrex_lite.testing import (
    NUM_CLASSES,
    NUM_QUERIES,
    SMALL,
    DetectorContract,
    build,
    build_on_meta,
    build_randomised,
    changed,
    parameter_patterns,
    predict,
)
from tests.suites import first_always

from .published import PROJECTS

CONFIGS = PROJECTS / "dab_detr" / "configs"


def small_config(**changes):
    cfg = get_config("projects/dab_detr/configs/models/dab_detr_r50.py").model
    return changed(cfg, {**SMALL, **changes})


class TestDABDETR(DetectorContract):
    def config(self, **changes):
        return small_config(**changes)


def relative_to_configs(path):
    return path.relative_to(CONFIGS).as_posix()


@pytest.mark.parametrize("path", first_always(sorted(CONFIGS.glob("**/*.py"))), ids=relative_to_configs)
def test_every_config_builds(path):
    model, cfg = build_on_meta(path)
    assert {head.out_features for head in model.heads.class_embed} == {model.num_classes} == {cfg.num_classes}
    assert model.queries.boxes.weight.shape == (cfg.num_queries, 4)
    assert (model.queries.patterns is not None) == ("patterns" in path.stem)
    assert ("dc5" in path.stem) == cfg.backbone.get("dilation", False)


def test_every_variant_has_a_config():
    models = {path.stem for path in CONFIGS.glob("models/*.py")}
    assert models >= {f"dab_detr_{name}" for name in ("r50", "r101", "r50_dc5", "r101_dc5", "r50_3patterns")}


def test_initial_boxes_are_the_anchors(batch):
    """The box heads of a new model predict no offsets, in any layer."""
    model = build(small_config()).eval()
    with torch.no_grad():
        named = predict(model, batch)
        anchors = model.queries.boxes().expand(len(batch), -1, -1)
    assert set(named) == {"", "_0"}
    for predictions in named.values():
        inside = (anchors > 1e-3) & (anchors < 1 - 1e-3)
        assert_close(predictions.boxes[inside], anchors[inside])


def test_patterns_make_a_query_of_each_anchor_and_pattern(batch):
    model = build_randomised(small_config(num_patterns=3)).double().train()
    (block,) = model.queries(len(batch), training=True)
    assert block.content.shape == (3, 3 * NUM_QUERIES, 64)
    assert_close(block.content.unflatten(1, (3, NUM_QUERIES))[0, :, 4], model.queries.patterns.weight)
    assert_close(block.reference.unflatten(1, (3, NUM_QUERIES))[0, 2], model.queries.boxes())
    assert predict(model, batch)[""].logits.shape == (3, 3 * NUM_QUERIES, NUM_CLASSES)
    sum(model(batch).values()).backward()
    assert model.queries.patterns.weight.grad.any(dim=1).all()


def test_patterns_and_groups_exclude_each_other():
    with pytest.raises(ValueError, match="num_patterns=3.*groups"):
        build(small_config(num_patterns=3, **{"queries.layout.num_groups": 2}))


def memory_of_six_cells():
    tokens, pos = torch.randn(2, 1, 6, 64, dtype=torch.float64)
    return Memory(tokens, pos, None)


def test_references_have_gradients_of_one_layer():
    """The anchors of a layer have gradients in the layer before it, and not in earlier layers."""
    model = build(small_config(**{"transformer.decoder.num_layers": 3})).double()
    anchors = torch.rand(1, NUM_QUERIES, 4, dtype=torch.float64).mul(0.8).add(0.1).requires_grad_()
    head = model.heads.bbox_embed[0].layers[-1]
    nn.init.zeros_(head.weight)  # the offsets are the bias for all queries
    queries = Queries([QueryBlock("", torch.randn(1, NUM_QUERIES, 64, dtype=torch.float64), anchors)])
    layers = model.transformer.decoder(queries, memory_of_six_cells(), model.heads)
    assert_close(layers[0].boxes, anchors)
    # With offsets of zero, boxes depend on the bias in their layer and, from the second layer on, in the layer before.
    for layer, number in zip(layers, (1, 2, 2), strict=True):
        (gradient,) = torch.autograd.grad(layer.boxes.sum(), head.bias, retain_graph=True)
        assert_close(gradient, number * (anchors * (1 - anchors)).sum(dim=(0, 1)))
    for layer, has_gradient in zip(layers, (True, True, False), strict=True):
        (gradient,) = torch.autograd.grad(layer.boxes.sum(), anchors, retain_graph=True, allow_unused=True)
        assert (gradient is not None and bool(gradient.any())) == has_gradient


def test_queries_that_are_not_attended_to_change_nothing(batch):
    """Denoising needs a block of queries that the matching queries do not attend to."""
    model = build_randomised(small_config()).double().eval()
    images = model.preprocess(batch, as_published=False)
    feature, positions = model.map_and_positions(images)
    memory = model.transformer.encode(feature, positions)
    (matching,) = model.queries(len(batch), training=False)
    additional = torch.randn(3, 3, 64, dtype=torch.float64), torch.rand(3, 3, 4, dtype=torch.float64)

    def boxes_of_matching_queries(*blocks):
        queries = Queries(blocks)
        return queries.split(model.transformer.decoder(queries, memory, model.heads))[""].boxes

    with torch.no_grad():
        alone = boxes_of_matching_queries(matching)
        without_attention = boxes_of_matching_queries(QueryBlock("_dn*", *additional, sees=("",)), matching)
        with_attention = boxes_of_matching_queries(QueryBlock("_dn*", *additional), replace(matching, sees=("_dn*",)))
    assert_close(without_attention, alone)
    assert (with_attention - alone).abs().max() > 1e-3


def test_modulation_scales_y_by_heights_and_x_by_widths():
    positions = torch.randn(2, 3, 8)
    predicted_sizes, sizes = torch.rand(2, 3, 2), torch.rand(2, 3, 2) + 0.1
    modulated = modulate(positions, predicted_sizes, sizes)
    assert_close(modulated[..., :4], positions[..., :4] * (predicted_sizes[..., 1:] / sizes[..., 1:]))
    assert_close(modulated[..., 4:], positions[..., 4:] * (predicted_sizes[..., :1] / sizes[..., :1]))


@pytest.mark.parametrize("masked", [True, False])
def test_padding_of_a_batch_as_published_is_masked_if_configured(batch, masked):
    model = build(small_config(**{"transformer.mask_memory_padding": masked})).eval()
    for as_published in (True, False):
        images = model.preprocess(batch, as_published=as_published)
        with torch.no_grad():
            memory = model.transformer.encode(*model.map_and_positions(images))
        assert (memory.padding is None) == (as_published and not masked)


def test_parameter_names_are_stable():
    model = build(small_config(num_patterns=2))
    layer = {"ffns.N.layers.N.*", "ffns.N.activations.N.*", "norms.N.*"}
    plain = {"attentions.N.in_proj_weight", "attentions.N.in_proj_bias", "attentions.N.out_proj.*"}
    parts = {f"{side}_{kind}" for side in ("query", "key") for kind in ("content", "pos")} | {"value", "query_pos_sine"}
    conditional = {f"attentions.N.{part}_proj.*" for part in parts | {"out"}}
    expected = {"input_proj.*", "heads.class_embed.N.*", "heads.bbox_embed.N.layers.N.*", "heads.norm.*"}
    expected |= {"queries.boxes.*", "queries.patterns.*"}
    expected |= {f"transformer.encoder.layers.N.{name}" for name in layer | plain}
    expected |= {f"transformer.decoder.layers.N.{name}" for name in layer | conditional}
    expected |= {
        f"transformer.decoder.{head}.layers.N.*" for head in ("ref_point_head", "ref_anchor_head", "query_scale")
    }
    expected |= {"transformer.encoder.query_scale.layers.N.*"}
    assert parameter_patterns(model) == expected
    crosses = [layer.attentions[1] for layer in model.transformer.decoder.layers]
    assert [cross.query_pos_proj is not None for cross in crosses] == [True, False]
