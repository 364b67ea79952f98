import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.layers import FFN, BaseTransformerLayer, ConditionalCrossAttention, ConditionalSelfAttention

B, Q, N, C, H = 2, 5, 7, 16, 4


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def build(kind, **options):
    torch.manual_seed(0)
    return kind(C, H, **options).double()


def attention(q, k, v, blocked=None):
    """Head by head: q (Q, H, D), k (N, H, D), v (N, H, E), blocked (Q, N) or (H, Q, N)."""
    results = []
    for head in range(q.shape[1]):
        logits = q[:, head] @ k[:, head].T / q.shape[-1] ** 0.5
        if blocked is not None:
            logits[blocked if blocked.dim() == 2 else blocked[head]] = float("-inf")
        results.append(logits.softmax(-1) @ v[:, head])
    return torch.cat(results, dim=-1)


def split_heads(x):
    return x.reshape(len(x), H, C // H)


def self_attention(layer, x, pos, blocked=None):
    """The formula for one image, (Q, C)."""
    q = split_heads(layer.query_content_proj(x) + layer.query_pos_proj(pos))
    k = split_heads(layer.key_content_proj(x) + layer.key_pos_proj(pos))
    return layer.out_proj(attention(q, k, split_heads(layer.value_proj(x)), blocked))


def cross_attention(layer, x, memory, query_pos, key_pos, sine, blocked=None):
    """The formula for one image, (Q, C) and (N, C): the logits of contents and of positions are added."""
    content_q, content_k = layer.query_content_proj(x), layer.key_content_proj(memory)
    pos_q, pos_k = layer.query_pos_sine_proj(sine), layer.key_pos_proj(key_pos)
    if query_pos is not None:
        content_q, content_k = content_q + layer.query_pos_proj(query_pos), content_k + pos_k
    q = torch.stack([split_heads(content_q), split_heads(pos_q)], dim=2).flatten(2)
    k = torch.stack([split_heads(content_k), split_heads(pos_k)], dim=2).flatten(2)
    return layer.out_proj(attention(q, k, split_heads(layer.value_proj(memory)), blocked))


def test_self_attention_follows_the_formula():
    layer = build(ConditionalSelfAttention)
    x, pos, identity = randn(B, Q, C), randn(B, Q, C), randn(B, Q, C)
    expected = torch.stack([self_attention(layer, *image) for image in zip(x, pos, strict=True)])
    assert_close(layer(x, query_pos=pos), x + expected)
    assert_close(layer(x, identity=identity, query_pos=pos, key_pos=pos), identity + expected)


@pytest.mark.parametrize("add_query_pos", [False, True])
def test_cross_attention_follows_the_formula(add_query_pos):
    layer = build(ConditionalCrossAttention, add_query_pos=add_query_pos)
    x, memory, identity = randn(B, Q, C), randn(B, N, C), randn(B, Q, C)
    query_pos, key_pos, sine = randn(B, Q, C), randn(1, N, C), randn(B, Q, C)
    expected = torch.stack(
        [
            cross_attention(layer, x[i], memory[i], query_pos[i] if add_query_pos else None, key_pos[0], sine[i])
            for i in range(B)
        ]
    )
    inputs = {"query_pos": query_pos, "key_pos": key_pos, "query_sine_embed": sine}
    assert_close(layer(x, memory, **inputs), x + expected)
    assert_close(layer(x, memory, memory, identity, **inputs), identity + expected)


def test_logits_are_the_sum_of_content_and_position_logits():
    layer = build(ConditionalCrossAttention)
    x, memory, key_pos, sine = randn(1, 1, C), randn(1, 2, C), randn(1, 2, C), randn(1, 1, C)
    content = (layer.query_content_proj(x) * layer.key_content_proj(memory)).unflatten(-1, (H, -1)).sum(-1)
    position = (layer.query_pos_sine_proj(sine) * layer.key_pos_proj(key_pos)).unflatten(-1, (H, -1)).sum(-1)
    weights = ((content + position) / (2 * C / H) ** 0.5).softmax(dim=1)  # (1, N, H)
    values = layer.value_proj(memory).unflatten(-1, (H, -1))
    expected = layer.out_proj((weights[..., None] * values).sum(1, keepdim=True).flatten(2))
    assert_close(layer(x, memory, key_pos=key_pos, query_sine_embed=sine), x + expected)


@pytest.mark.parametrize("kind", ["shared", "per_image", "per_head"])
def test_masked_keys_are_not_attended_to(kind):
    layer, cross = build(ConditionalSelfAttention), build(ConditionalCrossAttention)
    x, pos, memory, key_pos = randn(B, Q, C), randn(B, Q, C), randn(B, N, C), randn(B, N, C)
    leading = {"shared": (), "per_image": (B,), "per_head": (B * H,)}[kind]
    for keys in (Q, N):
        mask = torch.rand(*leading, Q, keys) < 0.4
        mask[..., 0] = False
        padding = torch.zeros(B, keys, dtype=torch.bool)
        padding[1, -2:] = True
        blocked = [
            {"shared": mask, "per_image": mask[i % len(mask)], "per_head": mask[i * H : (i + 1) * H]}[kind] | padding[i]
            for i in range(B)
        ]
        masks = {"attn_mask": mask, "key_padding_mask": padding}
        if keys == Q:
            expected = torch.stack([self_attention(layer, x[i], pos[i], blocked[i]) for i in range(B)])
            assert_close(layer(x, query_pos=pos, **masks), x + expected)
        else:
            expected = [cross_attention(cross, x[i], memory[i], None, key_pos[i], pos[i], blocked[i]) for i in range(B)]
            actual = cross(x, memory, key_pos=key_pos, query_sine_embed=pos, **masks)
            assert_close(actual, x + torch.stack(expected))


def test_sequence_first_inputs_give_the_same_output():
    x, pos, memory, key_pos = randn(B, Q, C), randn(B, Q, C), randn(B, N, C), randn(B, N, C)
    expected = build(ConditionalSelfAttention)(x, query_pos=pos)
    actual = build(ConditionalSelfAttention, batch_first=False)(x.transpose(0, 1), query_pos=pos.transpose(0, 1))
    assert_close(actual.transpose(0, 1), expected)
    expected = build(ConditionalCrossAttention)(x, memory, key_pos=key_pos, query_sine_embed=pos)
    x, pos, memory, key_pos = (tensor.transpose(0, 1) for tensor in (x, pos, memory, key_pos))
    actual = build(ConditionalCrossAttention, batch_first=False)(x, memory, key_pos=key_pos, query_sine_embed=pos)
    assert_close(actual.transpose(0, 1), expected)


def test_a_decoder_layer_accepts_conditional_attentions():
    torch.manual_seed(0)
    attentions = [ConditionalSelfAttention(C, H), ConditionalCrossAttention(C, H, add_query_pos=True)]
    layer = BaseTransformerLayer(
        attn=attentions,
        ffn=FFN(C, 2 * C),
        norm=nn.LayerNorm(C),
        operation_order=("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"),
    ).double()
    x, memory, query_pos, key_pos, sine = (randn(B, n, C) for n in (Q, N, Q, N, Q))
    mask = torch.eye(Q, dtype=torch.bool)
    actual = layer(
        x,
        memory,
        query_pos=query_pos,
        key_pos=key_pos,
        self_attn_mask=mask,
        cross_attn_inputs={"query_sine_embed": sine},
    )
    attentions = layer.attentions
    expected = layer.norms[0](attentions[0](x, query_pos=query_pos, attn_mask=mask))
    expected = attentions[1](expected, memory, query_pos=query_pos, key_pos=key_pos, query_sine_embed=sine)
    expected = layer.norms[2](layer.ffns[0](layer.norms[1](expected)))
    assert_close(actual, expected)


def test_dropout_is_for_training_only():
    layer = build(ConditionalSelfAttention, attn_drop=0.5, proj_drop=0.5)
    x, pos = randn(B, Q, C), randn(B, Q, C)
    assert not torch.equal(layer(x, query_pos=pos), layer(x, query_pos=pos))
    layer.eval()
    assert torch.equal(layer(x, query_pos=pos), layer(x, query_pos=pos))


def test_query_positions_are_projected_only_if_they_are_added():
    assert build(ConditionalCrossAttention).query_pos_proj is None
    assert isinstance(build(ConditionalCrossAttention, add_query_pos=True).query_pos_proj, nn.Linear)


def test_errors():
    x, pos = randn(B, Q, C), randn(B, Q, C)
    with pytest.raises(ValueError, match="embed_dim=10.*multiple.*num_heads=4"):
        ConditionalSelfAttention(10, 4)
    with pytest.raises(ValueError, match="ConditionalSelfAttention.*needs query_pos, got None"):
        build(ConditionalSelfAttention)(x)
    with pytest.raises(ValueError, match="ConditionalSelfAttention.*needs key_pos, got None"):
        build(ConditionalSelfAttention)(x, x, query_pos=pos)
    with pytest.raises(ValueError, match="needs query_sine_embed, got None.*cross_attn_inputs"):
        build(ConditionalCrossAttention)(x, x, key_pos=pos)
    with pytest.raises(ValueError, match="ConditionalCrossAttention.*needs query_pos, got None"):
        build(ConditionalCrossAttention, add_query_pos=True)(x, x, key_pos=pos, query_sine_embed=pos)
    with pytest.raises(ValueError, match=r"attn_mask must be bool.*torch.float64"):
        build(ConditionalSelfAttention)(x, query_pos=pos, attn_mask=randn(Q, Q))
