import pytest
import torch
from torch import nn

from detrex_lite.modeling import ChannelMapper

FEATURES = {
    "res3": torch.randn(2, 8, 16, 20),
    "res4": torch.randn(2, 12, 8, 10),
    "res5": torch.randn(2, 16, 4, 5),
}


def channels(*names):
    return {name: FEATURES[name].shape[1] for name in names}


def test_extra_levels_halve_the_last_feature():
    neck = ChannelMapper(
        in_channels=channels("res3", "res5"),
        out_channels=6,
        num_outs=4,
        norm=nn.GroupNorm(2, 6),
    )
    levels = neck(FEATURES)
    assert [tuple(level.shape) for level in levels] == [
        (2, 6, 16, 20),
        (2, 6, 4, 5),
        (2, 6, 2, 3),
        (2, 6, 1, 2),
    ]
    norms = [part[1] for part in [*neck.convs, *neck.extra_convs]]
    assert len({id(norm) for norm in norms}) == 4
    assert neck.extra_convs[0][0].in_channels == 16
    assert neck.extra_convs[1][0].in_channels == 6


def test_the_default_is_one_projection_per_feature():
    levels = ChannelMapper(in_channels=channels("res4"), out_channels=6)(FEATURES)
    assert [tuple(level.shape) for level in levels] == [(2, 6, 8, 10)]


def test_initial_weights_are_those_of_deformable_detr():
    torch.manual_seed(0)
    neck = ChannelMapper(in_channels={"res5": 300}, out_channels=200, num_outs=2)
    for convolution in (neck.convs[0][0], neck.extra_convs[0][0]):
        fan_in, fan_out = (width * convolution.kernel_size[0] ** 2 for width in (300, 200))
        bound = (6 / (fan_in + fan_out)) ** 0.5  # Xavier-uniform
        assert 0.98 * bound < convolution.weight.max() <= bound
        assert convolution.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
        assert not convolution.bias.any()
    assert ChannelMapper(in_channels={"res5": 3}, out_channels=2, bias=False).convs[0][0].bias is None


def test_errors():
    with pytest.raises(ValueError, match="at least one input feature"):
        ChannelMapper(in_channels={}, out_channels=6)
    with pytest.raises(ValueError, match="num_outs=1 is below.*2"):
        ChannelMapper(in_channels=channels("res3", "res4"), out_channels=6, num_outs=1)
    with pytest.raises(ValueError, match=r"expects \['res2'\].*\['res3', 'res4', 'res5'\]"):
        ChannelMapper(in_channels={"res2": 4}, out_channels=6)(FEATURES)
