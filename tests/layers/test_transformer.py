import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.layers import FFN, BaseTransformerLayer, MultiheadAttention, TransformerLayerSequence

C = 16
ORDER = ("self_attn", "norm", "ffn", "norm")


def make_layer(*order, attn=None):
    torch.manual_seed(0)
    layer = BaseTransformerLayer(
        attn=attn or MultiheadAttention(C, 4), ffn=FFN(C, 32), norm=nn.LayerNorm(C), operation_order=order
    )
    for parameter in layer.parameters():  # copies must not stay alike
        nn.init.normal_(parameter, std=0.3)
    return layer


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(2, 5, C)


@pytest.fixture
def memory():
    torch.manual_seed(2)
    return torch.randn(2, 7, C)


@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_layer_agrees_with_torch(norm_first, x):
    order = ["norm", "self_attn", "norm", "ffn"] if norm_first else ["self_attn", "norm", "ffn", "norm"]
    layer = make_layer(*order)
    theirs = nn.TransformerEncoderLayer(C, 4, 32, dropout=0.0, batch_first=True, norm_first=norm_first)
    theirs.self_attn.load_state_dict(layer.attentions[0].state_dict())
    theirs.linear1.load_state_dict(layer.ffns[0].layers[0].state_dict())
    theirs.linear2.load_state_dict(layer.ffns[0].layers[1].state_dict())
    theirs.norm1.load_state_dict(layer.norms[0].state_dict())
    theirs.norm2.load_state_dict(layer.norms[1].state_dict())
    assert_close(layer(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_layer_agrees_with_torch(norm_first, x, memory):
    order = ["self_attn", "norm", "cross_attn", "norm", "ffn", "norm"]
    if norm_first:
        order = ["norm", "self_attn", "norm", "cross_attn", "norm", "ffn"]
    layer = make_layer(*order)
    theirs = nn.TransformerDecoderLayer(C, 4, 32, dropout=0.0, batch_first=True, norm_first=norm_first)
    theirs.self_attn.load_state_dict(layer.attentions[0].state_dict())
    theirs.multihead_attn.load_state_dict(layer.attentions[1].state_dict())
    theirs.linear1.load_state_dict(layer.ffns[0].layers[0].state_dict())
    theirs.linear2.load_state_dict(layer.ffns[0].layers[1].state_dict())
    for number in range(3):
        getattr(theirs, f"norm{number + 1}").load_state_dict(layer.norms[number].state_dict())
    assert_close(layer(x, memory), theirs(x, memory), rtol=1e-4, atol=1e-5)


def test_pre_norm_keeps_the_ffn_when_attention_follows_it(x, memory):
    layer = make_layer("norm", "ffn", "norm", "cross_attn")
    ffn, attention, (first, second) = layer.ffns[0], layer.attentions[0], layer.norms
    after_ffn = ffn(first(x), identity=x)
    assert_close(layer(x, memory), attention(second(after_ffn), memory, identity=after_ffn))


def test_a_block_without_a_norm_before_it_adds_to_its_input(x):
    layer = make_layer("norm", "self_attn", "ffn")
    after_attention = layer.attentions[0](layer.norms[0](x), identity=x)
    assert_close(layer(x), layer.ffns[0](after_attention))


def test_cross_attention_before_self_attention(x, memory):
    layer = make_layer("cross_attn", "norm", "self_attn", "norm", "ffn", "norm")
    cross, self_attention = layer.attentions
    want = layer.norms[0](cross(x, memory))
    want = layer.norms[1](self_attention(want))
    assert_close(layer(x, memory), layer.norms[2](layer.ffns[0](want)))


def test_positions_and_masks_reach_the_right_attention(x, memory):
    layer = make_layer("self_attn", "cross_attn")
    query_pos, key_pos = torch.randn(2, 5, C), torch.randn(2, 7, C)
    self_mask, cross_mask = torch.eye(5, dtype=torch.bool), torch.zeros(5, 7, dtype=torch.bool)
    cross_mask[:, 3] = True
    padding, query_padding = torch.zeros(2, 7, dtype=torch.bool), torch.zeros(2, 5, dtype=torch.bool)
    padding[0, 6] = query_padding[1, 4] = True
    got = layer(
        x,
        memory,
        query_pos=query_pos,
        key_pos=key_pos,
        self_attn_mask=self_mask,
        cross_attn_mask=cross_mask,
        query_key_padding_mask=query_padding,
        key_padding_mask=padding,
    )
    want = layer.attentions[0](x, query_pos=query_pos, attn_mask=self_mask, key_padding_mask=query_padding)
    want = layer.attentions[1](
        want, memory, query_pos=query_pos, key_pos=key_pos, attn_mask=cross_mask, key_padding_mask=padding
    )
    assert_close(got, want)


def test_further_inputs_of_an_attention_reach_it_and_typos_do_not_pass(x):
    class Scaled(MultiheadAttention):
        def forward(self, query, scale=1.0, **inputs):
            return scale * super().forward(query, **inputs)

    layer = make_layer("self_attn", attn=Scaled(C, 4))
    assert_close(layer(x, self_attn_inputs={"scale": 3.0}), 3.0 * layer(x))
    with pytest.raises(TypeError, match="sclae"):
        layer(x, self_attn_inputs={"sclae": 3.0})
    with pytest.raises(TypeError, match="query_poss"):
        layer(x, query_poss=x)


def test_attentions_may_be_given_one_by_one():
    attentions = [MultiheadAttention(C, 2), MultiheadAttention(C, 8)]
    for given in (attentions, nn.ModuleList(attentions)):
        layer = make_layer("self_attn", "norm", "cross_attn", attn=given)
        assert [attention.num_heads for attention in layer.attentions] == [2, 8]


def test_layer_errors():
    with pytest.raises(ValueError, match="unknown operation 'self_atn'; did you mean 'self_attn'"):
        make_layer("self_atn")
    with pytest.raises(ValueError, match="operation_order is empty"):
        make_layer()
    with pytest.raises(ValueError, match=r"1 attention blocks were given, but .* has 2"):
        make_layer("self_attn", "cross_attn", attn=[MultiheadAttention(C, 4)])


def test_a_sequence_keeps_a_list_and_copies_one():
    layers = [make_layer("self_attn"), make_layer("ffn")]
    kept = TransformerLayerSequence(layers)
    assert list(kept) == layers
    assert kept.num_layers == 2
    copies = TransformerLayerSequence(layers[0], 3)
    assert copies.num_layers == 3
    assert len({id(layer) for layer in copies}) == 3
    assert TransformerLayerSequence(nn.ModuleList(layers), 2).num_layers == 2


def test_sequence_errors():
    layer = make_layer("self_attn")
    with pytest.raises(ValueError, match="2 layers were given, but num_layers=3"):
        TransformerLayerSequence([layer, layer], 3)
    with pytest.raises(ValueError, match="num_layers must say how many copies"):
        TransformerLayerSequence(layer)


def test_checkpointed_activations_are_not_stored_and_change_nothing(x):
    torch.manual_seed(0)
    ffn = FFN(C, 32, ffn_drop=0.3)
    layer = BaseTransformerLayer(
        attn=MultiheadAttention(C, 4, proj_drop=0.3), ffn=ffn, norm=nn.LayerNorm(C), operation_order=ORDER
    )

    def run():
        stored = []

        def pack(tensor):
            stored.append(tensor.numel())
            return tensor

        torch.manual_seed(1)  # the same values are dropped
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = layer(x.requires_grad_())
        return out, torch.autograd.grad(out.square().sum(), [x, *layer.parameters()]), sum(stored)

    out, gradients, stored = run()
    layer.activation_checkpointing = True
    again, gradients_again, stored_again = run()
    assert_close(again, out, rtol=0, atol=0)
    assert_close(gradients_again, gradients, rtol=0, atol=0)
    assert stored_again < stored / 4
    layer.eval()
    assert torch.equal(layer(x), layer(x))
