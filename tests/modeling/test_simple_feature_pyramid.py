import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from detrex_lite.modeling import SimpleFeaturePyramid


def make(channels=16, out_channels=8, **arguments):
    torch.manual_seed(0)
    return SimpleFeaturePyramid(in_channels={"stage5": channels}, out_channels=out_channels, **arguments)


def features(height, width, channels=16):
    return {"stage5": torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(0))}


def test_the_papers_scales():
    levels = make()(features(5, 7))
    assert [tuple(level.shape) for level in levels] == [(2, 8, 20, 28), (2, 8, 10, 14), (2, 8, 5, 7), (2, 8, 3, 4)]


def test_a_map_of_one_cell_has_all_levels():
    levels = make(scales=[2, 1, 0.5, 0.25])(features(1, 1))
    assert [tuple(level.shape[-2:]) for level in levels] == [(2, 2), (1, 1), (1, 1), (1, 1)]


def norm(x, layer):
    """Layer normalisation of the channels of each cell, by its definition."""
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + layer.eps).sqrt()
    return x * layer.weight[:, None, None] + layer.bias[:, None, None]


def test_levels_are_made_as_in_the_paper():
    pyramid = make().double()
    for parameter in pyramid.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = features(4, 6)["stage5"].double()
    finest, fine, same, coarse = pyramid.levels
    up = F.conv_transpose2d(x, finest[0].weight, finest[0].bias, stride=2)
    up = F.conv_transpose2d(F.gelu(norm(up, finest[1])), finest[3].weight, finest[3].bias, stride=2)
    scaled = [up, F.conv_transpose2d(x, fine[0].weight, fine[0].bias, stride=2), x, F.max_pool2d(x, 2)]
    assert [one.shape[1] for one in scaled] == [4, 8, 16, 16]
    for got, want, level in zip(pyramid({"stage5": x}), scaled, (finest, fine, same, coarse), strict=True):
        *_, narrow, first_norm, smooth, second_norm = level
        want = norm(F.conv2d(want, narrow.weight), first_norm)
        assert_close(got, norm(F.conv2d(want, smooth.weight, padding=1), second_norm))


def test_every_parameter_learns():
    pyramid = make()
    sum(level.square().sum() for level in pyramid(features(3, 3))).backward()
    assert [name for name, parameter in pyramid.named_parameters() if parameter.grad is None] == []


def test_errors():
    with pytest.raises(ValueError, match=r"takes one feature, got \['a', 'b'\] in in_channels"):
        SimpleFeaturePyramid(in_channels={"a": 8, "b": 8}, out_channels=8)
    for scales in ([3, 1], [0.3], [], [-2.0], [0]):
        with pytest.raises(ValueError, match="must be powers of two, such as 4, 2, 1, 0.5"):
            make(scales=scales)
    with pytest.raises(ValueError, match=r"scales=\[1, 2\] must decrease: levels come finest first"):
        make(scales=[1, 2])
    with pytest.raises(ValueError, match=r"scales=\[4, 1\]: 6 channels cannot be divided by 4"):
        make(channels=6, scales=[4, 1])
    with pytest.raises(ValueError, match=r"expects 'stage5', the backbone returns \['stage3'\]"):
        make()({"stage3": torch.zeros(1, 16, 2, 2)})
