import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.layers import FFN, BaseTransformerLayer, MultiScaleDeformableAttention
from detrex_lite.layers import deformable_attention as deformable_attention_module
from detrex_lite.ops import multi_scale_deformable_attention

SHAPES = [(4, 5), (2, 3)]
B, Q, N, C, H, P = 2, 6, 26, 16, 4, 3


@pytest.fixture
def attention():
    torch.manual_seed(0)
    attention = MultiScaleDeformableAttention(C, H, num_levels=2, num_points=P, dropout=0.0).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.3)
    return attention


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("coordinates", [2, 4])
def test_attention_follows_the_formula_of_the_paper(attention, coordinates):
    query, value, identity = randn(B, Q, C), randn(B, N, C), randn(B, Q, C)
    pos, reference = randn(1, Q, C), torch.rand(B, Q, 2, coordinates, dtype=torch.float64)
    padding = torch.zeros(B, N, dtype=torch.bool)
    padding[1, 5:9] = True
    actual = attention(
        query,
        value,
        identity=identity,
        query_pos=pos,
        key_pos=randn(B, N, C),
        key_padding_mask=padding,
        reference_points=reference,
        spatial_shapes=SHAPES,
    )
    moved = query + pos
    offsets = attention.sampling_offsets(moved).view(B, Q, H, 2, P, 2)
    weights = attention.attention_weights(moved).view(B, Q, H, 2 * P).softmax(-1).view(B, Q, H, 2, P)
    points = reference[:, :, None, :, None]
    if coordinates == 2:
        locations = points + offsets / torch.tensor([[5.0, 4.0], [3.0, 2.0]]).double()[:, None]
    else:
        locations = points[..., :2] + offsets / P * points[..., 2:] / 2
    masked_value = attention.value_proj(value).masked_fill(padding[..., None], 0).view(B, N, H, C // H)
    summed = multi_scale_deformable_attention(masked_value, SHAPES, locations, weights, backend="reference")
    assert_close(actual, identity + attention.output_proj(summed))


def test_queries_are_the_values_by_default(attention):
    tokens, pos, reference = randn(B, N, C), randn(B, N, C), torch.rand(B, N, 2, 2, dtype=torch.float64)
    shared = {"reference_points": reference, "spatial_shapes": SHAPES}
    assert_close(
        attention(tokens, query_pos=pos, **shared),
        attention(tokens, tokens, tokens, identity=tokens, query_pos=pos, **shared),
    )


def test_initial_offsets_of_heads_point_in_different_directions():
    attention = MultiScaleDeformableAttention(32, num_heads=8, num_levels=2, num_points=4)
    offsets = attention.sampling_offsets(torch.randn(32)).view(8, 2, 4, 2)
    for head in range(8):
        angle = 2 * math.pi * head / 8
        direction = torch.tensor([math.cos(angle), math.sin(angle)])
        direction /= direction.abs().max()
        for point in range(4):
            assert_close(offsets[head, :, point], (direction * (point + 1)).expand(2, 2), atol=1e-5, rtol=0)
    assert (attention.attention_weights(torch.randn(5, 32)) == 0).all()
    before = attention.value_proj.weight.clone()
    attention.reset_parameters()
    assert (attention.value_proj.weight != before).any()


def test_deformable_attention_can_be_the_attention_of_a_layer(attention):
    layer = BaseTransformerLayer(
        attn=attention,
        ffn=FFN(C, 8),
        norm=nn.LayerNorm(C),
        operation_order=("self_attn", "norm", "ffn", "norm"),
    ).double()
    tokens, reference = randn(B, N, C), torch.rand(B, N, 2, 2, dtype=torch.float64)
    inputs = {"reference_points": reference, "spatial_shapes": SHAPES}
    padding = torch.zeros(B, N, dtype=torch.bool)
    actual = layer(tokens, query_key_padding_mask=padding, self_attn_inputs=inputs)
    expected = layer.norms[0](layer.attentions[0](tokens, **inputs))
    assert_close(actual, layer.norms[1](layer.ffns[0](expected)))


def test_sampling_locations_are_accurate_in_half_precision():
    torch.manual_seed(0)
    attention = MultiScaleDeformableAttention(C, H, num_levels=1, num_points=P, dropout=0.0)
    shapes, tokens = [(40, 300)], torch.randn(1, 40 * 300, C)
    reference = torch.rand(1, 50, 1, 2)
    query = torch.randn(1, 50, C)
    expected = attention(query, tokens, reference_points=reference, spatial_shapes=shapes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = attention(query, tokens, reference_points=reference, spatial_shapes=shapes)
    assert_close(actual, expected, atol=0.05, rtol=0.05)


def test_offsets_are_exact_in_mixed_precision(monkeypatch):
    """bfloat16 would round an offset of 5 cells to a 32nd of a cell."""
    torch.manual_seed(0)
    attention = MultiScaleDeformableAttention(C, H, num_levels=1, num_points=P, dropout=0.0)
    torch.nn.init.normal_(attention.sampling_offsets.weight, std=0.3)
    query, reference = torch.randn(1, 12, C), torch.rand(1, 12, 1, 2)
    recorded_offsets = []
    compute = deformable_attention_module.multi_scale_deformable_attention_from_offsets

    def recording_compute(value, shapes, points, offsets, logits):
        recorded_offsets.append(offsets)
        return compute(value, shapes, points, offsets, logits)

    monkeypatch.setattr(deformable_attention_module, "multi_scale_deformable_attention_from_offsets", recording_compute)
    attention(query, reference_points=reference, spatial_shapes=[(3, 4)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attention(query, reference_points=reference, spatial_shapes=[(3, 4)])
    assert recorded_offsets[1].dtype == torch.float32
    assert_close(recorded_offsets[1], recorded_offsets[0], rtol=0, atol=0)
    out.sum().backward()
    assert attention.sampling_offsets.weight.grad.any()


def test_errors(attention):
    query, reference = randn(B, N, C), torch.rand(B, N, 2, 2, dtype=torch.float64)
    shared = {"reference_points": reference, "spatial_shapes": SHAPES}
    with pytest.raises(ValueError, match="cannot.*attn_mask"):
        attention(query, attn_mask=torch.zeros(N, N, dtype=torch.bool), **shared)
    with pytest.raises(ValueError, match=r"must be bool.*torch.float32"):
        attention(query, key_padding_mask=torch.zeros(B, N), **shared)
    with pytest.raises(ValueError, match="1 feature maps.*2 levels"):
        attention(query, reference_points=reference, spatial_shapes=[(2, 13)])
    with pytest.raises(ValueError, match="embed_dim=10.*multiple.*num_heads=4"):
        MultiScaleDeformableAttention(10, 4)


def attend_point_by_point(attention, query, value, reference, shapes):
    """The output of `attention`, written as sums over heads, levels and points."""
    points = attention.num_points
    offsets = attention.sampling_offsets(query).view(B, -1, H, sum(points), 2)
    weights = attention.attention_weights(query).view(B, -1, H, sum(points)).softmax(-1)
    maps = attention.value_proj(value).view(B, -1, H, C // H).split([h * w for h, w in shapes], 1)
    total, first = 0, 0
    for level, ((height, width), number) in enumerate(zip(shapes, points, strict=True)):
        size = torch.tensor([width, height], dtype=torch.float64)
        for point in range(first, first + number):
            location = reference[:, :, None, level, :2]  # (B, Q, 1, 2)
            if reference.shape[-1] == 2:
                location = location + offsets[:, :, :, point] / size
            else:
                location = location + offsets[:, :, :, point] / number * reference[:, :, None, level, 2:] / 2
            if attention.sampling == "discrete":
                cell = (location * size + 0.5).long()
                cell = torch.stack([cell[..., 0].clamp(0, width - 1), cell[..., 1].clamp(0, height - 1)], -1)
                flat = cell[..., 1] * width + cell[..., 0]
                sampled = maps[level][torch.arange(B)[:, None, None], flat, torch.arange(H)]
            else:
                images = maps[level].permute(0, 2, 3, 1).reshape(B * H, C // H, height, width)
                grid = (2 * location - 1).transpose(1, 2).reshape(B * H, -1, 1, 2)
                sampled = nn.functional.grid_sample(images, grid, align_corners=False)
                sampled = sampled.view(B, H, C // H, -1).permute(0, 3, 1, 2)
            total = total + sampled * weights[:, :, :, point, None]
        first += number
    return query + attention.output_proj(total.flatten(2))


@pytest.mark.parametrize("sampling", ["bilinear", "discrete"])
@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("points", [(2, 5), (3, 1), (2, 2)], ids=str)
def test_levels_may_have_different_numbers_of_points(points, coordinates, sampling):
    torch.manual_seed(0)
    attention = MultiScaleDeformableAttention(C, H, 2, num_points=points, dropout=0.0, sampling=sampling).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    query, value = randn(B, Q, C).requires_grad_(), randn(B, N, C).requires_grad_()
    reference = torch.rand(B, Q, 2, coordinates, dtype=torch.float64).requires_grad_()
    actual = attention(query, value, reference_points=reference, spatial_shapes=SHAPES)
    expected = attend_point_by_point(attention, query, value, reference, SHAPES)
    assert_close(actual, expected)
    learned = [parameter for parameter in attention.parameters() if parameter.requires_grad]
    inputs = [query, value, *([reference] if sampling == "bilinear" else []), *learned]
    gradient = randn(B, Q, C)
    assert_close(torch.autograd.grad(actual, inputs, gradient), torch.autograd.grad(expected, inputs, gradient))


def test_discrete_sampling_does_not_train_the_offsets():
    attention = MultiScaleDeformableAttention(C, H, 2, sampling="discrete")
    assert {name for name, value in attention.named_parameters() if not value.requires_grad} == {
        "sampling_offsets.weight",
        "sampling_offsets.bias",
    }


def test_omitted_projections_are_identities():
    attention = MultiScaleDeformableAttention(C, H, 2, value_proj=False, output_proj=False)
    assert {name.split(".")[0] for name in attention.state_dict()} == {"sampling_offsets", "attention_weights"}
    with_identity_projections = MultiScaleDeformableAttention(C, H, 2)
    with_identity_projections.load_state_dict(attention.state_dict(), strict=False)
    for projection in (with_identity_projections.value_proj, with_identity_projections.output_proj):
        nn.init.eye_(projection.weight)
    inputs = {"reference_points": torch.rand(B, Q, 2, 4), "spatial_shapes": SHAPES}
    query, value = torch.randn(B, Q, C), torch.randn(B, N, C)
    assert_close(attention.eval()(query, value, **inputs), with_identity_projections.eval()(query, value, **inputs))


def test_rings_of_points_restart_on_each_level():
    attention = MultiScaleDeformableAttention(C, H, 2, num_points=(2, 3))
    first_head = attention.sampling_offsets.bias.view(H, 5, 2)[0]
    assert_close(first_head, torch.tensor([[1.0, 0], [2, 0], [1, 0], [2, 0], [3, 0]]))


def test_invalid_points_and_sampling_raise_an_error():
    with pytest.raises(ValueError, match=r"num_points=\(4, 4\) with 3 levels"):
        MultiScaleDeformableAttention(C, H, 3, num_points=(4, 4))
    with pytest.raises(ValueError, match="num_points=0"):
        MultiScaleDeformableAttention(C, H, 3, num_points=0)
    with pytest.raises(ValueError, match="sampling='discreet'.*discrete"):
        MultiScaleDeformableAttention(C, H, 3, sampling="discreet")
