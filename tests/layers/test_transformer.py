import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.layers import (
    FFN,
    BaseTransformerLayer,
    MultiheadAttention,
    MultiScaleDeformableAttention,
    TransformerLayerSequence,
)

C = 16
ORDER = ("self_attn", "norm", "ffn", "norm")


def make_layer(*order, attn=None):
    torch.manual_seed(0)
    layer = BaseTransformerLayer(
        attn=attn or MultiheadAttention(C, 4), ffn=FFN(C, 32), norm=nn.LayerNorm(C), operation_order=order
    )
    for parameter in layer.parameters():  # copies must not stay identical
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
    torch_layer = nn.TransformerEncoderLayer(C, 4, 32, dropout=0.0, batch_first=True, norm_first=norm_first)
    torch_layer.self_attn.load_state_dict(layer.attentions[0].state_dict())
    torch_layer.linear1.load_state_dict(layer.ffns[0].layers[0].state_dict())
    torch_layer.linear2.load_state_dict(layer.ffns[0].layers[1].state_dict())
    torch_layer.norm1.load_state_dict(layer.norms[0].state_dict())
    torch_layer.norm2.load_state_dict(layer.norms[1].state_dict())
    assert_close(layer(x), torch_layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_layer_agrees_with_torch(norm_first, x, memory):
    order = ["self_attn", "norm", "cross_attn", "norm", "ffn", "norm"]
    if norm_first:
        order = ["norm", "self_attn", "norm", "cross_attn", "norm", "ffn"]
    layer = make_layer(*order)
    torch_layer = nn.TransformerDecoderLayer(C, 4, 32, dropout=0.0, batch_first=True, norm_first=norm_first)
    torch_layer.self_attn.load_state_dict(layer.attentions[0].state_dict())
    torch_layer.multihead_attn.load_state_dict(layer.attentions[1].state_dict())
    torch_layer.linear1.load_state_dict(layer.ffns[0].layers[0].state_dict())
    torch_layer.linear2.load_state_dict(layer.ffns[0].layers[1].state_dict())
    for number in range(3):
        getattr(torch_layer, f"norm{number + 1}").load_state_dict(layer.norms[number].state_dict())
    assert_close(layer(x, memory), torch_layer(x, memory), rtol=1e-4, atol=1e-5)


def test_pre_norm_layers_keep_the_output_of_an_ffn_before_attention(x, memory):
    layer = make_layer("norm", "ffn", "norm", "cross_attn")
    ffn, attention, (first, second) = layer.ffns[0], layer.attentions[0], layer.norms
    after_ffn = ffn(first(x), identity=x)
    assert_close(layer(x, memory), attention(second(after_ffn), memory, identity=after_ffn))


def test_a_block_without_a_preceding_norm_adds_to_its_input(x):
    layer = make_layer("norm", "self_attn", "ffn")
    after_attention = layer.attentions[0](layer.norms[0](x), identity=x)
    assert_close(layer(x), layer.ffns[0](after_attention))


def test_cross_attention_can_precede_self_attention(x, memory):
    layer = make_layer("cross_attn", "norm", "self_attn", "norm", "ffn", "norm")
    cross, self_attention = layer.attentions
    expected = layer.norms[0](cross(x, memory))
    expected = layer.norms[1](self_attention(expected))
    assert_close(layer(x, memory), layer.norms[2](layer.ffns[0](expected)))


def test_positions_and_masks_reach_the_right_attention(x, memory):
    layer = make_layer("self_attn", "cross_attn")
    query_pos, key_pos = torch.randn(2, 5, C), torch.randn(2, 7, C)
    self_mask, cross_mask = torch.eye(5, dtype=torch.bool), torch.zeros(5, 7, dtype=torch.bool)
    cross_mask[:, 3] = True
    padding, query_padding = torch.zeros(2, 7, dtype=torch.bool), torch.zeros(2, 5, dtype=torch.bool)
    padding[0, 6] = query_padding[1, 4] = True
    actual = layer(
        x,
        memory,
        query_pos=query_pos,
        key_pos=key_pos,
        self_attn_mask=self_mask,
        cross_attn_mask=cross_mask,
        query_key_padding_mask=query_padding,
        key_padding_mask=padding,
    )
    expected = layer.attentions[0](x, query_pos=query_pos, attn_mask=self_mask, key_padding_mask=query_padding)
    expected = layer.attentions[1](
        expected, memory, query_pos=query_pos, key_pos=key_pos, attn_mask=cross_mask, key_padding_mask=padding
    )
    assert_close(actual, expected)


def test_additional_inputs_reach_the_attention_and_misspelt_inputs_raise_an_error(x):
    class Scaled(MultiheadAttention):
        def forward(self, query, scale=1.0, **inputs):
            return scale * super().forward(query, **inputs)

    layer = make_layer("self_attn", attn=Scaled(C, 4))
    assert_close(layer(x, self_attn_inputs={"scale": 3.0}), 3.0 * layer(x))
    with pytest.raises(TypeError, match="sclae"):
        layer(x, self_attn_inputs={"sclae": 3.0})
    with pytest.raises(TypeError, match="query_poss"):
        layer(x, query_poss=x)


def test_attentions_can_be_passed_as_a_list():
    attentions = [MultiheadAttention(C, 2), MultiheadAttention(C, 8)]
    for attention_list in (attentions, nn.ModuleList(attentions)):
        layer = make_layer("self_attn", "norm", "cross_attn", attn=attention_list)
        assert [attention.num_heads for attention in layer.attentions] == [2, 8]


def test_layers_built_from_the_same_attentions_share_no_weights():
    attentions = [MultiheadAttention(C, 4), MultiheadAttention(C, 4)]
    blocks = {"attn": attentions, "ffn": FFN(C, 8), "norm": nn.LayerNorm(C)}
    order = ("self_attn", "norm", "cross_attn", "norm", "ffn")
    first, second = (BaseTransformerLayer(**blocks, operation_order=order) for _ in range(2))
    tensors = [
        *first.parameters(),
        *second.parameters(),
        *(p for attention in attentions for p in attention.parameters()),
    ]
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)
    for layer in (first, second):  # blocks that are passed as a list keep their initial values
        for actual, attention in zip(layer.attentions, attentions, strict=True):
            assert_close(actual.state_dict(), attention.state_dict(), rtol=0, atol=0)


class ZeroBias(FFN):
    """A block whose constructor sets a value that `reset_parameters` does not change."""

    def __init__(self, *args):
        super().__init__(*args)
        nn.init.zeros_(self.layers[1].bias)


class Gated(MultiheadAttention):
    """An attention with an additional matrix that `reset_parameters` does not change."""

    def __init__(self, *args):
        super().__init__(*args)
        self.gate = nn.Parameter(torch.zeros(C, C))


class Fixed(nn.Module):
    """An attention without `reset_parameters`."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((C, C), 0.25))

    def forward(self, query, *args, identity, **inputs):
        return identity + query @ self.weight


def test_copied_blocks_draw_new_initial_values():
    attention, ffn = MultiheadAttention(C, 4), ZeroBias(C, 32)
    layer = BaseTransformerLayer(
        attn=attention, ffn=ffn, norm=nn.LayerNorm(C), operation_order=("self_attn", "ffn", "cross_attn", "ffn")
    )
    for copies, original, name in (
        (layer.attentions, attention, "in_proj_weight"),
        (layer.ffns, ffn, "layers.0.weight"),
    ):
        first, second = (copy.get_parameter(name) for copy in copies)
        assert torch.equal(first, original.get_parameter(name))
        assert not torch.equal(second, first)
    assert not any(copy.layers[1].bias.any() for copy in layer.ffns)
    twice = BaseTransformerLayer(
        attn=[attention, attention], ffn=ffn, norm=nn.LayerNorm(C), operation_order=("self_attn", "cross_attn")
    )
    assert not torch.equal(*(copy.in_proj_weight for copy in twice.attentions))


def test_layers_of_a_sequence_draw_new_values_and_keep_those_set_by_constructors():
    layer = BaseTransformerLayer(
        attn=[Gated(C, 4), Fixed()],
        ffn=ZeroBias(C, 32),
        norm=nn.LayerNorm(C),
        operation_order=("self_attn", "norm", "cross_attn", "norm", "ffn"),
    )
    nn.init.constant_(layer.norms[0].weight, 0.5)
    sequence = TransformerLayerSequence(layer, 3)
    assert_close(sequence.layers[0].state_dict(), layer.state_dict(), rtol=0, atol=0)
    for name in ("attentions.0.in_proj_weight", "attentions.0.out_proj.weight", "ffns.0.layers.1.weight"):
        weights = [copy.get_parameter(name) for copy in sequence]
        assert len({weight.sum().item() for weight in weights}) == 3, name
    for copy in sequence:
        assert not copy.ffns[0].layers[1].bias.any()
        assert not copy.attentions[0].gate.any()
        assert (copy.attentions[1].weight == 0.25).all()
        assert (copy.norms[0].weight == 0.5).all()


def test_modules_without_reset_parameters_can_be_stacked():
    sequence = TransformerLayerSequence(nn.Sequential(nn.Identity()), 2)
    assert sequence.num_layers == 2


@pytest.mark.parametrize("operation", ["self_attn", "cross_attn"])
def test_errors_name_missing_inputs_of_an_attention(operation, x):
    layer = make_layer("ffn", operation, attn=MultiScaleDeformableAttention(C, 4, num_levels=1))
    message = rf"{operation} of operation_order=.* is a MultiScaleDef.*, which needs %s.* in {operation}_inputs"
    with pytest.raises(ValueError, match=message % "reference_points and spatial_shapes: .*"):
        layer(x, x)
    inputs = {"reference_points": torch.rand(2, 5, 1, 2)}
    with pytest.raises(ValueError, match=message % "spatial_shapes: .*"):
        layer(x, x, **{f"{operation}_inputs": inputs})
    inputs["spatial_shapes"] = [(1, 5)]
    assert layer(x, x, **{f"{operation}_inputs": inputs}).shape == x.shape


def test_layer_errors():
    with pytest.raises(ValueError, match="unknown.*'self_atn'.*'self_attn'"):
        make_layer("self_atn")
    with pytest.raises(ValueError, match="operation_order.*empty"):
        make_layer()
    with pytest.raises(ValueError, match=r"1 attention.*has 2"):
        make_layer("self_attn", "cross_attn", attn=[MultiheadAttention(C, 4)])


def test_a_sequence_keeps_a_list_of_layers_and_copies_a_single_layer():
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
    with pytest.raises(ValueError, match="2 layers.*num_layers=3"):
        TransformerLayerSequence([layer, layer], 3)
    with pytest.raises(ValueError, match="num_layers"):
        TransformerLayerSequence(layer)


def test_activation_checkpointing_stores_less_and_gives_the_same_gradients(x):
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
    checkpointed, checkpointed_gradients, checkpointed_stored = run()
    assert_close(checkpointed, out, rtol=0, atol=0)
    assert_close(checkpointed_gradients, gradients, rtol=0, atol=0)
    assert checkpointed_stored < stored / 4
    layer.eval()
    assert torch.equal(layer(x), layer(x))
