from functools import partial

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.layers import ConditionalCrossAttention, ConditionalSelfAttention, MultiheadAttention
from detrex_lite.layers.attention import attend

B, Q, N, C, H = 2, 5, 7, 16, 4


@pytest.fixture
def attentions():
    """The package's attention and torch's with the same weights, in float64."""
    torch.manual_seed(0)
    attention = MultiheadAttention(C, H).double()
    torch.nn.init.normal_(attention.in_proj_bias)
    torch_attention = torch.nn.MultiheadAttention(C, H, batch_first=True).double()
    torch_attention.load_state_dict(attention.state_dict())  # the parameter names agree
    return attention, torch_attention


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_self_attention_adds_positions_to_query_and_key_and_its_input_to_the_output(attentions):
    attention, torch_attention = attentions
    x, pos = randn(B, Q, C), randn(B, Q, C)
    expected, _ = torch_attention(x + pos, x + pos, x)
    assert_close(attention(x, query_pos=pos), x + expected)


def test_cross_attention_adds_the_given_identity(attentions):
    attention, torch_attention = attentions
    x, memory, identity = randn(B, Q, C), randn(B, N, C), randn(B, Q, C)
    query_pos, key_pos = randn(B, Q, C), randn(1, N, C)
    expected, _ = torch_attention(x + query_pos, memory + key_pos, memory)
    actual = attention(x, memory, identity=identity, query_pos=query_pos, key_pos=key_pos)
    assert_close(actual, identity + expected)


def test_query_positions_are_not_added_to_a_separate_key(attentions):
    attention, torch_attention = attentions
    x, memory, pos = randn(B, Q, C), randn(B, Q, C), randn(B, Q, C)
    expected, _ = torch_attention(x + pos, memory, memory)
    assert_close(attention(x, memory, query_pos=pos), x + expected)


def test_value_may_differ_from_key(attentions):
    attention, torch_attention = attentions
    x, key, value = randn(B, Q, C), randn(B, N, C), randn(B, N, C)
    expected, _ = torch_attention(x, key, value)
    assert_close(attention(x, key, value), x + expected)


@pytest.mark.parametrize("kind", ["shared", "per_image", "per_head"])
def test_masked_keys_are_not_attended_to(attentions, kind):
    attention, torch_attention = attentions
    x, memory = randn(B, Q, C), randn(B, N, C)
    shape = {"shared": (Q, N), "per_image": (B, Q, N), "per_head": (B * H, Q, N)}[kind]
    mask = torch.rand(shape) < 0.4
    mask[..., 0] = False
    padding = torch.zeros(B, N, dtype=torch.bool)
    padding[1, -2:] = True
    torch_mask = mask.repeat_interleave(H, 0) if kind == "per_image" else mask
    expected, _ = torch_attention(x, memory, memory, attn_mask=torch_mask, key_padding_mask=padding)
    assert_close(attention(x, memory, attn_mask=mask, key_padding_mask=padding), x + expected)


def test_sequence_first_inputs_give_the_same_output(attentions):
    attention, _ = attentions
    sequence_first = MultiheadAttention(C, H, batch_first=False).double()
    sequence_first.load_state_dict(attention.state_dict())
    x, memory, pos = randn(B, Q, C), randn(B, N, C), randn(B, Q, C)
    actual = sequence_first(x.transpose(0, 1), memory.transpose(0, 1), query_pos=pos.transpose(0, 1))
    assert_close(actual.transpose(0, 1), attention(x, memory, query_pos=pos))


def test_gradients_agree_with_finite_differences(attentions):
    attention, _ = attentions
    x, memory = randn(1, 2, C).requires_grad_(), randn(1, 3, C).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: attention(a, b, query_pos=0.5 * a), (x, memory))


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    layer = MultiheadAttention(C, H, attn_drop=0.5, proj_drop=0.5)
    x = torch.randn(B, Q, C)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert_close(layer(x), layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["attn_mask", "key_padding_mask"])
def test_masks_that_are_not_bool_raise_an_error(name):
    layer = MultiheadAttention(C, H)
    shape = (Q, Q) if name == "attn_mask" else (B, Q)
    with pytest.raises(ValueError, match=f"{name} must be bool"):
        layer(torch.randn(B, Q, C), **{name: torch.zeros(shape)})


def test_masks_of_the_wrong_shape_raise_an_error():
    layer = MultiheadAttention(C, H)
    with pytest.raises(ValueError, match=r"attn_mask has shape \(3, 3\); expected.*\(5, 5\)"):
        layer(torch.randn(B, Q, C), attn_mask=torch.zeros(3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"key_padding_mask has shape \(5, 2\); expected.*\(2, 5\)"):
        layer(torch.randn(B, Q, C), key_padding_mask=torch.zeros(Q, B, dtype=torch.bool))


def test_embed_dim_must_be_a_multiple_of_num_heads():
    with pytest.raises(ValueError, match="embed_dim=16.*multiple.*num_heads=3"):
        MultiheadAttention(16, 3)


def test_initial_values_are_those_of_detr():
    torch.manual_seed(0)
    layer = MultiheadAttention(64, H)
    for weight in (layer.in_proj_weight, layer.out_proj.weight):
        bound = (6 / sum(weight.shape)) ** 0.5
        assert 0.98 * bound < weight.abs().max() <= bound
    assert not layer.in_proj_bias.any()
    assert not layer.out_proj.bias.any()


@pytest.mark.parametrize("kind", [ConditionalSelfAttention, partial(ConditionalCrossAttention, add_query_pos=True)])
def test_resetting_conditional_attention_redraws_weights_and_keeps_biases(kind):
    torch.manual_seed(0)
    layer = kind(64, H)
    before = {name: parameter.clone() for name, parameter in layer.named_parameters()}
    layer.reset_parameters()
    for name, parameter in layer.named_parameters():
        assert torch.equal(parameter, before[name]) == name.endswith("bias"), name
        if parameter.dim() > 1:
            bound = (6 / 128) ** 0.5
            assert 0.98 * bound < parameter.abs().max() <= bound, name
    assert not layer.out_proj.bias.any()


def attention_by_formula(q, k, v, bias, blocked=None):
    logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias
    if blocked is not None:
        logits = logits.masked_fill(blocked, float("-inf"))
    return logits.softmax(-1) @ v


SHAPES = [(Q, N), (B, Q, N), (1, Q, N), (B, H, Q, N), (1, H, Q, N), (B, 1, 1, N), (N,), ()]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_bias_is_added_to_the_logits_and_gets_gradients(shape, masked):
    torch.manual_seed(0)
    q, k, v = (randn(B, H, tokens, 8).requires_grad_() for tokens in (Q, N, N))
    bias = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    mask, padding, blocked = None, None, None
    if masked:
        mask, padding = torch.rand(B, Q, N) < 0.3, torch.zeros(B, N, dtype=torch.bool)
        mask[..., 0], padding[1, -2:] = False, True
        blocked = (mask | padding[:, None])[:, None]
    actual = attend(q, k, v, attn_mask=mask, key_padding_mask=padding, attn_bias=bias)
    expected = attention_by_formula(q, k, v, bias[:, None] if bias.dim() == 3 else bias, blocked)
    assert_close(actual, expected)
    gradient, inputs = torch.randn_like(expected), (q, k, v, bias)
    assert_close(torch.autograd.grad(actual, inputs, gradient), torch.autograd.grad(expected, inputs, gradient))


def test_bias_is_cast_to_the_dtype_of_the_queries():
    q, k, v = (torch.randn(B, H, tokens, 8) for tokens in (Q, N, N))
    bias = randn(Q, N).requires_grad_()
    actual = attend(q, k, v, attn_bias=bias)
    assert_close(actual, attention_by_formula(q, k, v, bias.float()))
    actual.sum().backward()
    assert bias.grad.dtype == torch.float64
    layer, x = MultiheadAttention(C, H), torch.randn(B, Q, C)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x, attn_bias=torch.zeros(Q, Q)).shape == (B, Q, C)


def test_all_kinds_of_attention_apply_the_bias(attentions):
    attention, _ = attentions
    x, memory, pos, bias = randn(B, Q, C), randn(B, N, C), randn(B, Q, C), torch.full((Q, N), -1e9).double()
    bias[:, 3] = 0
    single_key = memory[:, 3:4]
    assert_close(attention(x, memory, attn_bias=bias), attention(x, single_key))
    cross = ConditionalCrossAttention(C, H).double()
    key_pos = randn(B, N, C)
    actual = cross(x, memory, key_pos=key_pos, query_sine_embed=pos, attn_bias=bias)
    assert_close(actual, cross(x, single_key, key_pos=key_pos[:, 3:4], query_sine_embed=pos))
    conditional = ConditionalSelfAttention(C, H).double()
    actual = conditional(x, query_pos=pos, attn_bias=bias[:, :Q])
    assert_close(actual, conditional(x, x[:, 3:4], query_pos=pos, key_pos=pos[:, 3:4]))


def test_bias_errors():
    layer, x = MultiheadAttention(C, H), torch.randn(B, Q, C)
    with pytest.raises(ValueError, match="attn_mask must be bool.*attn_bias"):
        layer(x, attn_mask=torch.zeros(Q, Q))
    with pytest.raises(ValueError, match=r"attn_bias.*floating point.*torch.bool.*attn_mask"):
        layer(x, attn_bias=torch.zeros(Q, Q, dtype=torch.bool))
    shapes = r"expected.*\(5, 5\).*\(2, 4, 5, 5\)"
    for shape in ((3, Q), (H, Q, Q), (1, 1, 1, Q, Q)):
        with pytest.raises(ValueError, match="attn_bias has shape.*" + shapes):
            layer(x, attn_bias=torch.zeros(shape))


G, n = 3, 4


@pytest.mark.parametrize("kind", [MultiheadAttention, ConditionalSelfAttention])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("with_padding_and_bias", [True, False])
def test_groups_equal_a_block_diagonal_mask(kind, batch_first, with_padding_and_bias):
    torch.manual_seed(0)
    layer = kind(C, H, batch_first=batch_first).double()
    x, pos = randn(B, G * n, C), randn(B, G * n, C)
    if not batch_first:
        x, pos = x.transpose(0, 1), pos.transpose(0, 1)
    x.requires_grad_()
    group = torch.arange(G * n) // n
    masked_inputs = {"attn_mask": group[:, None] != group}
    folded_inputs = {"num_groups": G}
    biases = []
    if with_padding_and_bias:
        padding = torch.zeros(B, G * n, dtype=torch.bool)
        padding[0, 1] = padding[1, 2 * n + 2] = True
        bias = randn(B, G, H, n, n).requires_grad_()
        whole_bias = torch.zeros(B, H, G * n, G * n, dtype=torch.float64)
        for index in range(G):
            rows = slice(index * n, (index + 1) * n)
            whole_bias[:, :, rows, rows] = bias[:, index]
        masked_inputs |= {"key_padding_mask": padding, "attn_bias": whole_bias}
        folded_inputs |= {"key_padding_mask": padding, "attn_bias": bias.flatten(0, 1)}
        biases = [bias]
    actual, expected = (layer(x, query_pos=pos, **inputs) for inputs in (folded_inputs, masked_inputs))
    assert_close(actual, expected)
    gradient, inputs = torch.randn_like(expected), (x, *biases, *layer.parameters())
    assert_close(torch.autograd.grad(actual, inputs, gradient), torch.autograd.grad(expected, inputs, gradient))


@pytest.mark.parametrize("kind", [MultiheadAttention, ConditionalSelfAttention])
@pytest.mark.parametrize("batched", [False, True])
def test_masks_within_groups_equal_a_block_diagonal_mask(kind, batched):
    layer = kind(C, H).double()
    x, pos = randn(B, G * n, C), randn(B, G * n, C)
    mask = torch.rand(B * G, n, n) < 0.5 if batched else (torch.rand(n, n) < 0.5)
    mask &= ~torch.eye(n, dtype=torch.bool)  # a row that is masked completely would give NaN
    whole_mask = torch.ones(B, G * n, G * n, dtype=torch.bool)
    for index in range(G):
        rows = slice(index * n, (index + 1) * n)
        whole_mask[:, rows, rows] = mask.unflatten(0, (B, G))[:, index] if batched else mask
    assert mask.any()
    assert_close(layer(x, query_pos=pos, num_groups=G, attn_mask=mask), layer(x, query_pos=pos, attn_mask=whole_mask))


def test_one_group_equals_no_groups(attentions):
    attention, _ = attentions
    x, mask = randn(B, Q, C), torch.eye(Q, dtype=torch.bool)
    assert_close(attention(x, num_groups=1, attn_mask=mask), attention(x, attn_mask=mask), rtol=0, atol=0)
    assert attention(x[:, :0], num_groups=G).shape == (B, 0, C)


@pytest.mark.parametrize("kind", [MultiheadAttention, ConditionalSelfAttention])
def test_group_errors(kind):
    layer, x = kind(C, H), torch.randn(B, Q, C)
    inputs = {"query_pos": x, "key_pos": x}
    with pytest.raises(ValueError, match="5 queries.*divided.*num_groups=3"):
        layer(x, num_groups=3, **inputs)
    with pytest.raises(ValueError, match="num_groups=5.*self-attention"):
        layer(x, x.clone(), num_groups=5, **inputs)
    with pytest.raises(ValueError, match=r"attn_mask has shape \(5, 5\); expected.*\(1, 1\)"):
        layer(x, num_groups=5, attn_mask=torch.eye(Q, dtype=torch.bool), **inputs)
    with pytest.raises(ValueError, match=r"key_padding_mask has shape \(5, 2\); expected.*\(2, 5\)"):
        layer(x, num_groups=5, key_padding_mask=torch.zeros(Q, B, dtype=torch.bool), **inputs)
    with pytest.raises(ValueError, match="num_groups=0 is below 1"):
        layer(x, num_groups=0, **inputs)
