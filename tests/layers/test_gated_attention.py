"""Attention whose identity connection is a gate."""

import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.layers import (
    FFN,
    BaseTransformerLayer,
    GatedAttention,
    MultiheadAttention,
    MultiScaleDeformableAttention,
)

C = 8
SHAPES = [(3, 4), (2, 2)]


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_gates_weight_the_identity_against_the_attention_output():
    torch.manual_seed(0)
    attention = MultiScaleDeformableAttention(C, 2, 2, dropout=0.0)
    gated = GatedAttention(attention, C).double()
    nn.init.normal_(gated.gate.weight)
    query, value, pos = randn(1, 3, C), randn(1, 16, C), randn(1, 3, C)
    inputs = {"query_pos": pos, "reference_points": torch.rand(1, 3, 2, 4).double(), "spatial_shapes": SHAPES}
    attended = attention(query, value, **inputs) - query
    gates = gated.gate(torch.cat([query, attended], -1)).sigmoid()
    expected = nn.functional.layer_norm(gates[..., :C] * query + gates[..., C:] * attended, (C,))
    assert_close(gated(query, value, **inputs), expected)
    identity = randn(1, 3, C)
    gates = gated.gate(torch.cat([identity, attended], -1)).sigmoid()
    expected = nn.functional.layer_norm(gates[..., :C] * identity + gates[..., C:] * attended, (C,))
    assert_close(gated(query, value, identity=identity, **inputs), expected)


def test_gates_are_initially_half_open():
    gated = GatedAttention(MultiheadAttention(C, 2), C).double()
    query = randn(1, 3, C)
    assert_close(gated(query), nn.functional.layer_norm(gated.attention(query) / 2, (C,)), rtol=1e-4, atol=1e-4)


def test_gated_attention_works_in_a_layer_and_redraws_its_parameters():
    gated = GatedAttention(MultiheadAttention(C, 2), C)
    layer = BaseTransformerLayer(
        attn=gated, ffn=FFN(C, 4), norm=nn.LayerNorm(C), operation_order=("self_attn", "cross_attn", "ffn", "norm")
    )
    assert layer(torch.zeros(1, 3, C), torch.zeros(1, 5, C)).shape == (1, 3, C)
    first, second = layer.attentions
    assert not torch.equal(first.attention.in_proj_weight, second.attention.in_proj_weight)
    nn.init.ones_(gated.gate.weight)
    gated.reset_parameters()
    assert not gated.gate.weight.any()
