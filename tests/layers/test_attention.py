import pytest
import torch
from torch.testing import assert_close

from detrex_lite.layers import MultiheadAttention

B, Q, N, C, H = 2, 5, 7, 16, 4


@pytest.fixture
def pair():
    """Our attention and torch's with the same weights, in float64."""
    torch.manual_seed(0)
    ours = MultiheadAttention(C, H).double()
    torch.nn.init.normal_(ours.in_proj_bias)
    theirs = torch.nn.MultiheadAttention(C, H, batch_first=True).double()
    theirs.load_state_dict(ours.state_dict())  # the parameter names agree
    return ours, theirs


def randn(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def test_self_attention_adds_positions_to_query_and_key_and_the_identity(pair):
    ours, theirs = pair
    x, pos = randn(B, Q, C), randn(B, Q, C)
    want, _ = theirs(x + pos, x + pos, x)
    assert_close(ours(x, query_pos=pos), x + want)


def test_cross_attention_with_its_own_identity(pair):
    ours, theirs = pair
    x, memory, identity = randn(B, Q, C), randn(B, N, C), randn(B, Q, C)
    query_pos, key_pos = randn(B, Q, C), randn(1, N, C)
    want, _ = theirs(x + query_pos, memory + key_pos, memory)
    got = ours(x, memory, identity=identity, query_pos=query_pos, key_pos=key_pos)
    assert_close(got, identity + want)


def test_a_key_of_its_own_does_not_take_the_query_position(pair):
    ours, theirs = pair
    x, memory, pos = randn(B, Q, C), randn(B, Q, C), randn(B, Q, C)
    want, _ = theirs(x + pos, memory, memory)
    assert_close(ours(x, memory, query_pos=pos), x + want)


def test_value_may_differ_from_key(pair):
    ours, theirs = pair
    x, key, value = randn(B, Q, C), randn(B, N, C), randn(B, N, C)
    want, _ = theirs(x, key, value)
    assert_close(ours(x, key, value), x + want)


@pytest.mark.parametrize("kind", ["shared", "per_image", "per_head"])
def test_masks_mean_not_attended(pair, kind):
    ours, theirs = pair
    x, memory = randn(B, Q, C), randn(B, N, C)
    shape = {"shared": (Q, N), "per_image": (B, Q, N), "per_head": (B * H, Q, N)}[kind]
    mask = torch.rand(shape) < 0.4
    mask[..., 0] = False
    padding = torch.zeros(B, N, dtype=torch.bool)
    padding[1, -2:] = True
    torch_mask = mask.repeat_interleave(H, 0) if kind == "per_image" else mask
    want, _ = theirs(x, memory, memory, attn_mask=torch_mask, key_padding_mask=padding)
    assert_close(ours(x, memory, attn_mask=mask, key_padding_mask=padding), x + want)


def test_sequence_first(pair):
    ours, _ = pair
    other = MultiheadAttention(C, H, batch_first=False).double()
    other.load_state_dict(ours.state_dict())
    x, memory, pos = randn(B, Q, C), randn(B, N, C), randn(B, Q, C)
    got = other(x.transpose(0, 1), memory.transpose(0, 1), query_pos=pos.transpose(0, 1))
    assert_close(got.transpose(0, 1), ours(x, memory, query_pos=pos))


def test_gradients(pair):
    ours, _ = pair
    x, memory = randn(1, 2, C).requires_grad_(), randn(1, 3, C).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: ours(a, b, query_pos=0.5 * a), (x, memory))


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    layer = MultiheadAttention(C, H, attn_drop=0.5, proj_drop=0.5)
    x = torch.randn(B, Q, C)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert_close(layer(x), layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["attn_mask", "key_padding_mask"])
def test_masks_of_another_dtype_are_refused(name):
    layer = MultiheadAttention(C, H)
    shape = (Q, Q) if name == "attn_mask" else (B, Q)
    with pytest.raises(ValueError, match=f"{name} must be bool"):
        layer(torch.randn(B, Q, C), **{name: torch.zeros(shape)})


def test_masks_of_another_shape_are_refused():
    layer = MultiheadAttention(C, H)
    with pytest.raises(ValueError, match=r"attn_mask has shape \(3, 3\); expected \(Q, N\) = \(5, 5\)"):
        layer(torch.randn(B, Q, C), attn_mask=torch.zeros(3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"key_padding_mask has shape \(5, 2\); expected \(B, N\) = \(2, 5\)"):
        layer(torch.randn(B, Q, C), key_padding_mask=torch.zeros(Q, B, dtype=torch.bool))


def test_heads_must_divide_channels():
    with pytest.raises(ValueError, match="embed_dim=16 is not a multiple of num_heads=3"):
        MultiheadAttention(16, 3)
