"""Box heads that predict distributions of the distances of edges."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.modeling import DistributionHeads, EdgeBins, LocationQuality
from detrex_lite.modeling.edge_distributions import CORNERS, INITIAL
from detrex_lite.structures import inverse_sigmoid

C, K, LAYERS = 8, 3, 3


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def build(**arguments):
    """Heads with random weights, so that their outputs depend on the queries."""
    torch.manual_seed(0)
    arguments = {"quality": LocationQuality(), "for_encoder": True, **arguments}
    heads = DistributionHeads(embed_dim=C, num_classes=K, num_layers=LAYERS, bins=EdgeBins(), **arguments).double()
    for parameter in heads.parameters():
        nn.init.normal_(parameter, std=0.3)
    return heads


def steps_of(heads, queries, reference):
    steps = []
    for index, query in enumerate(queries):
        steps.append(heads.step(index, query, reference, steps[-1] if steps else None))
        reference = steps[-1].reference
    return steps


# Bins


def test_bins_are_fine_near_zero_and_coarse_elsewhere():
    """The values of D-FINE's paper for a = 1/2 and c = 1/4, which means bounds of 2 and 4."""
    values = torch.tensor(EdgeBins(32, 4.0, 0.5).values())
    assert len(values) == 33
    assert_close(values[[0, 1, 16, 31, 32]], torch.tensor([-4.0, -2.0, 0.0, 2.0, 4.0]))
    assert_close(values, -values.flip(0))
    steps = values[16:].diff()
    assert (steps[:15].diff() > 0).all()
    assert_close(values[17:32] + 1, (values[17] + 1) ** torch.arange(1, 16))


def test_distances_move_edges_in_units_of_the_side():
    initial = torch.tensor([0.5, 0.4, 0.2, 0.4])
    bins = EdgeBins(reg_scale=4.0)
    assert_close(bins.boxes(initial, torch.zeros(4)), initial)
    moved = bins.boxes(initial, torch.tensor([2.0, 0.0, 0.0, 1.0]))  # left by half the width, down by a quarter
    assert_close(moved, torch.tensor([0.45, 0.45, 0.3, 0.5]))
    assert_close(EdgeBins(reg_scale=8.0).boxes(initial, torch.tensor([4.0, 0.0, 0.0, 2.0])), moved)


def test_distances_between_boxes_invert_moving_the_edges():
    initial, boxes = (torch.rand(5, 4, dtype=torch.float64) + 0.1 for _ in range(2))
    bins = EdgeBins(reg_scale=8.0)
    assert_close(bins.boxes(initial, bins.distances(initial, boxes)), boxes)


@pytest.mark.parametrize("arguments", [{"reg_max": 31}, {"reg_max": 2}, {"reg_scale": 0.0}, {"up": -1.0}])
def test_invalid_bins_raise_an_error(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}={next(iter(arguments.values()))}"):
        EdgeBins(**arguments)


# Heads


def test_layers_sum_logits_of_distances_from_one_initial_box():
    heads, queries = build(), [randn(2, 5, C) for _ in range(LAYERS)]
    reference = 0.1 + 0.8 * torch.rand(2, 5, 4, dtype=torch.float64)
    steps = steps_of(heads, queries, reference)
    *layers, plain = heads.read(steps)
    initial = (heads.pre_bbox_embed(queries[0]) + inverse_sigmoid(reference, 1e-5)).sigmoid()
    assert_close(plain.boxes, initial)
    assert plain.name == "_pre"
    assert_close(plain.logits, heads.class_embed[0](queries[0]))
    corners, values = 0, torch.tensor(EdgeBins().values(), dtype=torch.float64)
    for index, (layer, step) in enumerate(zip(layers, steps, strict=True)):
        hidden = queries[index] if index == 0 else queries[index] + queries[index - 1]
        corners = corners + heads.bbox_embed[index](hidden).view(2, 5, 4, 33)
        boxes = EdgeBins().boxes(initial, (corners.softmax(-1) * values).sum(-1))
        assert_close(layer.boxes, boxes)
        assert_close(step.reference, boxes)
        assert_close(layer.extra[CORNERS], corners)
        assert_close(layer.extra[INITIAL], initial)
        highest = corners.softmax(-1).sort(descending=True).values[..., :4]
        quality = heads.quality_embed[index].mlp(torch.cat([highest, highest.mean(-1, keepdim=True)], -1).flatten(2))
        assert_close(layer.logits, heads.class_embed[index](queries[index]) + quality)
        assert_close(heads.read_boxes(step), boxes)
    assert not any(step.reference.requires_grad for step in steps)


def test_gradients_pass_through_the_sum_but_not_through_the_initial_box():
    heads, queries = build(), [randn(1, 2, C).requires_grad_() for _ in range(LAYERS)]
    *layers, plain = heads.read(steps_of(heads, queries, torch.full((1, 2, 4), 0.5, dtype=torch.float64)))
    layers[2].boxes.square().sum().backward(retain_graph=True)
    assert all(head.layers[0].weight.grad.any() for head in heads.bbox_embed[:3])
    assert heads.pre_bbox_embed.layers[0].weight.grad is None
    assert all(query.grad.any() for query in queries)
    plain.boxes.sum().backward()
    assert heads.pre_bbox_embed.layers[0].weight.grad.any()


def test_initial_boxes_equal_their_references_and_proposals_are_plain_boxes():
    heads = DistributionHeads(embed_dim=C, num_classes=K, num_layers=LAYERS, bins=EdgeBins(), for_encoder=True)
    reference = 0.1 + 0.8 * torch.rand(1, 3, 4)
    for layer in heads.read(steps_of(heads, [torch.randn(1, 3, C) for _ in range(LAYERS)], reference)):
        assert_close(layer.boxes, reference)
    proposed = heads.propose(torch.randn(1, 3, C), reference, torch.ones(1, 3, dtype=torch.bool))
    assert_close(proposed.boxes, reference)
    assert heads.bbox_embed[-1].layers[-1].out_features == 4


def test_bin_values_stay_exact_when_the_precision_changes():
    heads = DistributionHeads(embed_dim=C, num_classes=K, num_layers=1, bins=EdgeBins())
    assert_close(heads.double().bin_values, torch.tensor(EdgeBins().values(), dtype=torch.float64), rtol=0, atol=0)
    assert "bin_values" not in heads.state_dict()


def test_boxes_are_exact_in_mixed_precision():
    heads, query = build().float(), torch.randn(1, 3, C)
    reference = torch.full((1, 3, 4), 0.5)
    expected = heads.step(0, query, reference).boxes
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(heads.step(0, query, reference).boxes, expected, rtol=0, atol=0)


def test_heads_can_be_shared_and_initial_size_sets_the_bias():
    heads = build(share_heads=True, for_encoder=False)
    assert heads.bbox_embed[0] is heads.bbox_embed[2]
    assert heads.quality_embed[0] is heads.quality_embed[2]
    fresh = DistributionHeads(embed_dim=C, num_classes=K, num_layers=1, bins=EdgeBins(), initial_size=-2.0)
    assert fresh.pre_bbox_embed.layers[-1].bias.tolist() == [0, 0, -2, -2]


@pytest.mark.parametrize("num_layers", [2, 3])
def test_keep_last_layer_keeps_detections_and_scores(num_layers):
    heads, queries = build(), [randn(1, 2, C) for _ in range(num_layers)]
    reference, tokens = torch.full((1, 2, 4), 0.5, dtype=torch.float64), randn(1, 4, C)
    expected = heads.read(steps_of(heads, queries, reference))[num_layers - 1]
    scores = heads.score_tokens(tokens)
    heads.keep_last_layer(num_layers)
    (actual,) = heads.read(steps_of(heads, queries, reference))
    assert_close((actual.logits, actual.boxes), (expected.logits, expected.boxes))
    assert_close(heads.score_tokens(tokens), scores)
    assert [type(head) for head in heads.class_embed] == [*[nn.Identity] * (num_layers - 1), nn.Linear, nn.Linear]
    assert len(heads.quality_embed) == num_layers


@pytest.mark.parametrize("arguments", [{"with_box_refine": False}, {"look_forward_twice": True}])
def test_unsupported_options_of_distributions_raise_an_error(arguments):
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}={next(iter(arguments.values()))}"):
        build(**arguments)
