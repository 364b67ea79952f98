import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.checkpoint import CheckpointError
from detrex_lite.modeling import InternImage
from detrex_lite.modeling.backbone.internimage import DeformableConvolution

SMALL = {"embed_dim": 8, "depths": (1, 1, 2, 1), "groups": (1, 2, 4, 8)}


def make(**arguments):
    torch.manual_seed(0)
    return InternImage(**{**SMALL, **arguments})


def random_images(height, width, batch=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def randomised(module, std=0.3):
    """Replace the initial zeros of offsets and weights, which would hide their effect."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=std)
    return module


@pytest.mark.parametrize(("height", "width"), [(64, 96), (45, 70), (3, 5)])
@pytest.mark.parametrize("post_norm", [False, True])
def test_maps_have_all_cells_that_start_inside_the_image(height, width, post_norm):
    backbone = make(out_indices=[0, 1, 2, 3], post_norm=post_norm).double().eval()
    maps = backbone(random_images(height, width, batch=2).double())
    assert {name: tuple(level.shape) for name, level in maps.items()} == {
        f"stage{n}": (2, 8 << n, math.ceil(height / (4 << n)), math.ceil(width / (4 << n))) for n in range(4)
    }
    assert {level.dtype for level in maps.values()} == {torch.float64}


def value_at(image, y, x):
    """Bilinear interpolation of an image (h, w, C) with zeros around it."""
    total = torch.zeros_like(image[0, 0])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total = total + image[row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


@pytest.mark.parametrize("offset_scale", [1.0, 2.0])
def test_deformable_convolution_agrees_with_a_loop_over_points(offset_scale):
    """Equation 2 of the paper in a loop over cells, groups and the nine points of the kernel."""
    layer = randomised(DeformableConvolution(8, 2, offset_scale=offset_scale)).double()
    x = torch.randn(1, 4, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    depthwise = layer.dw_conv(x.permute(0, 3, 1, 2))[0]
    offsets, weights = layer.offset(depthwise).view(4, 5, 2, 9, 2), layer.mask(depthwise).view(4, 5, 2, 9).softmax(-1)
    projected = layer.input_proj(x)[0]
    expected = torch.zeros(4, 5, 8, dtype=torch.float64)
    for row in range(4):
        for column in range(5):
            for group in range(2):
                channels = slice(4 * group, 4 * group + 4)
                for point in range(9):
                    to_right, down = offsets[row, column, group, point].tolist()
                    right_of, below = point // 3 - 1, point % 3 - 1
                    value = value_at(
                        projected[..., channels],
                        row + offset_scale * (below + down),
                        column + offset_scale * (right_of + to_right),
                    )
                    expected[row, column, channels] += weights[row, column, group, point] * value
    assert offsets.abs().max() > 1
    assert_close(layer(x), layer.output_proj(expected)[None])


def test_an_initial_deformable_convolution_averages_between_two_projections():
    layer = DeformableConvolution(8, 2)
    x = torch.randn(1, 5, 6, 8)
    mean = nn.functional.avg_pool2d(layer.input_proj(x).permute(0, 3, 1, 2), 3, stride=1, padding=1)
    assert_close(layer(x), layer.output_proj(mean.permute(0, 2, 3, 1)))


@pytest.mark.parametrize("post_norm", [False, True])
def test_float32_agrees_with_float64(post_norm):
    backbone = randomised(make(post_norm=post_norm), std=0.1).eval()
    images = random_images(45, 70)
    single = backbone(images)
    for actual, expected in zip(single.values(), backbone.double()(images.double()).values(), strict=True):
        assert_close(actual.double(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("post_norm", [False, True])
@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_all_weights_are_trained(post_norm, activation_checkpointing):
    backbone = make(post_norm=post_norm, activation_checkpointing=activation_checkpointing, drop_path_rate=0.0)
    backbone = randomised(backbone).train()
    sum((level**3).sum() for level in backbone(random_images(96, 96)).values()).backward()
    assert [
        name for name, parameter in backbone.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ] == []


def test_stages_without_outputs_are_not_built():
    backbone = make(out_indices=[1])
    assert len(backbone.levels) == 2
    assert backbone.levels[1].downsample is None
    assert backbone.channels == {"stage1": 16}


def test_weights_of_a_classifier_are_loaded_and_missing_tensors_raise_an_error(tmp_path):
    state = make().state_dict()
    torch.save({"model": {**state, "head.weight": torch.ones(5, 64)}}, tmp_path / "a.pth")
    loaded = InternImage(**SMALL, weights=str(tmp_path / "a.pth")).state_dict()
    for name, value in state.items():
        assert torch.equal(loaded[name], value)
    state.pop("levels.2.blocks.1.gamma1")
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"1 of the tensors.*levels\.2\.blocks\.1\.gamma1"):
        InternImage(**SMALL, weights=str(tmp_path / "b.pth"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out_indices": [-1]}, r"out_indices=\[-1\]"),
        ({"groups": (1, 1)}, "four stages"),
        ({"groups": (3, 1, 1, 1)}, "8 channels.*divided.*3 groups"),
        ({"weights": "no/such.pth"}, "no/such.pth"),
    ],
)
def test_invalid_arguments_raise_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)
