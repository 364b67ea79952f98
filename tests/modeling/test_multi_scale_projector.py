import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from detrex_lite.layers import convert_to_deploy
from detrex_lite.modeling import MultiScaleProjector

CHANNELS = {"block0": 8, "block2": 8}


def make(**arguments):
    torch.manual_seed(0)
    neck = MultiScaleProjector(in_channels=CHANNELS, out_channels=12, num_blocks=2, **arguments)
    for name, value in neck.state_dict().items():
        if value.is_floating_point() and value.dim() == 1:
            nn.init.uniform_(value, 0.5, 1.5) if "bias" not in name else nn.init.normal_(value)
    return neck.double().eval()


def random_maps(height=6, width=4):
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(2, channels, height, width, generator=generator, dtype=torch.float64)
        for name, channels in CHANNELS.items()
    }


@pytest.mark.parametrize("norm", ["BN", "LN"])
def test_levels_have_the_requested_scales(norm):
    maps = make(scales=[2.0, 1.0, 0.5], norm=norm)(random_maps())
    assert [tuple(level.shape) for level in maps] == [(2, 12, 12, 8), (2, 12, 6, 4), (2, 12, 3, 2)]
    for level in maps:  # after the norm and the affine parameters of each channel
        assert level.isfinite().all()


def norm_by_formula(module, x):
    """Batch norm by running statistics, or layer norm of the channels of each cell."""
    if isinstance(module, nn.BatchNorm2d):
        return F.batch_norm(x, module.running_mean, module.running_var, module.weight, module.bias, False, 0.0, 1e-5)
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-6).sqrt() * module.weight[:, None, None] + module.bias[:, None, None]


@pytest.mark.parametrize("norm", ["BN", "LN"])
def test_a_level_is_fused_as_in_the_paper(norm):
    neck, maps = make(scales=[1.0], norm=norm), random_maps()
    fusion = neck.fusions[0]

    def block(module, x):
        return F.silu(norm_by_formula(module.norm, F.conv2d(x, module.conv.weight, padding=module.conv.padding)))

    x = block(fusion.conv1, torch.cat(list(maps.values()), 1))
    parts = [x[:, :6], x[:, 6:]]
    for first, second in fusion.bottlenecks:
        parts.append(block(second, block(first, parts[-1])))
    expected = norm_by_formula(neck.norms[0], block(fusion.conv2, torch.cat(parts, 1)))
    assert_close(neck(maps)[0], expected)


def test_wide_maps_are_reduced_before_upsampling():
    wide, narrow = make(scales=[2.0], squeeze_above=7), make(scales=[2.0], squeeze_above=8)
    assert [len(layers) for layers in wide.resamplers[0]] == [2, 2]
    assert [len(layers) for layers in narrow.resamplers[0]] == [1, 1]
    assert wide.fusions[0].conv1.conv.in_channels == 2 * 2
    assert narrow.fusions[0].conv1.conv.in_channels == 2 * 4
    assert wide(random_maps())[0].shape == narrow(random_maps())[0].shape == (2, 12, 12, 8)
    assert [len(layers) for layers in make(scales=[2.0], squeeze_above=None).resamplers[0]] == [1, 1]


def test_a_deployed_projector_gives_the_same_output():
    neck, maps = make(scales=[2.0, 0.5]), random_maps()
    expected = neck(maps)
    convert_to_deploy(neck)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in neck.modules())
    assert_close(neck(maps), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_channels": {}}, "in_channels"),
        ({"scales": [4.0]}, r"scales=\[4.0\]"),
        ({"scales": [0.5, 2.0]}, r"scales=\[0.5, 2.0\]"),
        ({"scales": []}, r"scales=\[\]"),
        ({"norm": "GN"}, "norm='GN'.*BN, SyncBN, LN"),
        ({"out_channels": 13}, "out_channels=13"),
        ({"in_channels": {"block0": 7}, "scales": [2.0]}, "7 channels"),
    ],
)
def test_invalid_arguments_raise_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleProjector(**{"in_channels": CHANNELS, "out_channels": 12, **arguments})


def test_errors_name_missing_maps():
    with pytest.raises(ValueError, match=r"\['block2'\].*\['block0'\]"):
        make()({"block0": random_maps()["block0"]})
