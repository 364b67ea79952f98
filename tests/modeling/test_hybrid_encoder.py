"""The hybrid encoder as a neck."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.layers import (
    FFN,
    BaseTransformerLayer,
    ConvNormAct,
    CSPRepLayer,
    MultiheadAttention,
    get_grid_sine_pos_embed,
)
from detrex_lite.modeling import HybridEncoder
from detrex_lite.modeling.single_level import SingleLevelEncoder

CHANNELS = {"res3": 6, "res4": 10, "res5": 12}
WIDTH = 16


def encoder_of(num_layers=1):
    layer = BaseTransformerLayer(
        attn=MultiheadAttention(WIDTH, 4),
        ffn=FFN(WIDTH, 24, activation=nn.GELU),
        norm=nn.LayerNorm(WIDTH),
        operation_order=("self_attn", "norm", "ffn", "norm"),
    )
    return SingleLevelEncoder(layer=layer, num_layers=num_layers)


def make_neck(**changes):
    torch.manual_seed(0)
    parts = {
        "in_channels": CHANNELS,
        "hidden_dim": WIDTH,
        "encoder": encoder_of(),
        "lateral": ConvNormAct(WIDTH, WIDTH, activation=nn.SiLU),
        "fusion": CSPRepLayer(WIDTH, expansion=0.5, num_blocks=1),
        "downsample": ConvNormAct(WIDTH, WIDTH, 3, stride=2, activation=nn.SiLU),
    }
    return HybridEncoder(**{**parts, **changes}).double().eval()


def make_features(sizes=((12, 20), (6, 10), (3, 5)), batch=2):
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(batch, channels, *size, dtype=torch.float64, generator=generator)
        for (name, channels), size in zip(CHANNELS.items(), sizes, strict=True)
    }


def test_levels_keep_their_sizes_and_get_the_same_width():
    maps = make_neck()(make_features())
    assert [tuple(level.shape) for level in maps] == [(2, WIDTH, 12, 20), (2, WIDTH, 6, 10), (2, WIDTH, 3, 5)]


@pytest.mark.parametrize(
    "sizes",
    [((13, 21), (7, 11), (4, 6)), ((13, 21), (6, 10), (3, 5)), ((1, 3), (1, 2), (1, 1))],
    ids=["rounded up", "rounded down", "one cell"],
)
def test_image_sizes_need_not_be_multiples_of_32(sizes):
    maps = make_neck()(make_features(sizes))
    assert [tuple(level.shape[-2:]) for level in maps] == list(sizes)


def test_every_output_level_depends_on_every_input_level():
    model, inputs = make_neck(), make_features()
    for name, value in inputs.items():
        value.requires_grad_()
        for level in model(inputs):
            (gradient,) = torch.autograd.grad(level.square().sum(), value, retain_graph=True)
            assert gradient.any(), name


def test_the_neck_follows_the_figure_of_the_paper():
    model, inputs = make_neck(), make_features()
    low, middle, high = (project(inputs[name]) for name, project in zip(CHANNELS, model.projections, strict=True))
    pos = get_grid_sine_pos_embed(3, 5, WIDTH, like=high)
    high = model.encoders[0](high.flatten(2).mT, pos=pos[None]).mT.reshape(high.shape)

    def upsample(level):
        return level.repeat_interleave(2, 2).repeat_interleave(2, 3)

    high = model.laterals[0](high)
    middle = model.top_down[0](torch.cat([upsample(high), middle], 1))
    middle = model.laterals[1](middle)
    low = model.top_down[1](torch.cat([upsample(middle), low], 1))
    middle = model.bottom_up[0](torch.cat([model.downsamples[0](low), middle], 1))
    high = model.bottom_up[1](torch.cat([model.downsamples[1](middle), high], 1))
    for actual, expected in zip(model(inputs), (low, middle, high), strict=True):
        assert_close(actual, expected)


def test_copied_parts_draw_their_own_values():
    model = make_neck(encoder_levels=(1, 2))
    for parts in (model.laterals, model.downsamples, [*model.top_down, *model.bottom_up]):
        weights = [next(part.parameters()) for part in parts]
        assert all(not torch.equal(weights[0], weight) for weight in weights[1:])
    assert len(model.encoders) == 2


def test_encoder_levels_selects_the_levels_with_an_encoder():
    plain, inputs = make_neck(encoder=None), make_features()
    assert not plain.encoders
    assert plain(inputs)[0].shape == (2, WIDTH, 12, 20)
    first = make_neck(encoder_levels=(0,))
    assert first.encoder_levels == (0,)
    assert make_neck().encoder_levels == (2,)


def test_outputs_are_projected_to_the_width_of_the_transformer():
    maps = make_neck(output=ConvNormAct(WIDTH, 32))(make_features())
    assert {level.shape[1] for level in maps} == {32}


def test_positions_embed_rows_before_columns():
    table = get_grid_sine_pos_embed(3, 5, 8, temperature=100.0, like=torch.zeros((), dtype=torch.float64)).view(3, 5, 8)
    row, column = 2, 4
    angles = [row, row / 10, column, column / 10]
    sines, cosines = [math.sin(a) for a in angles], [math.cos(a) for a in angles]
    expected = [*sines[:2], *cosines[:2], *sines[2:], *cosines[2:]]
    assert_close(table[row, column], torch.tensor(expected, dtype=torch.float64))
    assert get_grid_sine_pos_embed(3, 5, 8, like=torch.zeros((), dtype=torch.bfloat16)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="num_channels=6"):
        get_grid_sine_pos_embed(3, 5, 6, like=torch.zeros(()))


def test_invalid_arguments_raise_an_error():
    with pytest.raises(ValueError, match="in_channels"):
        make_neck(in_channels={})
    with pytest.raises(ValueError, match=r"encoder_levels=\[3\]"):
        make_neck(encoder_levels=(3,))
    with pytest.raises(ValueError, match="'res3'"):
        make_neck()({"res4": torch.zeros(1, 10, 4, 4), "res5": torch.zeros(1, 12, 2, 2)})
