import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from detrex_lite.modeling import SimpleFeaturePyramid, ViTDet, pyramid_channels


class Net(nn.Module):
    """A backbone of patches of 16x16 pixels that records its input."""

    def __init__(self, channels=16, stride=16):
        super().__init__()
        self.channels, self.stride = channels, stride
        self.proj = nn.Conv2d(3, channels, stride, stride=stride)

    def forward(self, images):
        self.images = images
        return self.proj(images)


def make(channels=16, out_channels=8, **arguments):
    torch.manual_seed(0)
    return SimpleFeaturePyramid(net=Net(channels), out_channels=out_channels, **arguments)


def random_images(height, width):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def sizes(maps):
    return [tuple(level.shape[-2:]) for level in maps.values()]


def test_levels_have_the_scales_of_the_paper():
    pyramid = make()
    maps = pyramid(random_images(96, 112))
    assert sizes(maps) == [(24, 28), (12, 14), (6, 7), (3, 3)]
    assert (
        {name: level.shape[1] for name, level in maps.items()} == pyramid.channels == {f"p{n}": 8 for n in (2, 3, 4, 5)}
    )
    channels = pyramid_channels(out_channels=8, scales=[2, 1, 0.5], subsampled_levels=1)
    assert channels == make(scales=[2, 1, 0.5], subsampled_levels=1).channels == {f"p{n}": 8 for n in (3, 4, 5, 6)}


def test_incomplete_patches_are_ignored():
    pyramid = make()
    images = random_images(111, 90)
    for actual, expected in zip(pyramid(images).values(), pyramid(images[..., :96, :80]).values(), strict=True):
        assert_close(actual, expected, rtol=0, atol=0)


def test_an_image_smaller_than_a_patch_has_all_levels():
    pyramid = make(scales=[2, 1, 0.5], subsampled_levels=2)
    assert sizes(pyramid(random_images(3, 40))) == [(2, 4), (1, 2), (1, 1), (1, 1), (1, 1)]
    assert not pyramid.net.images[..., 3:, :].any()


def test_images_are_padded_to_a_square_and_maps_are_cropped():
    pyramid = make(scales=[2, 1, 0.5], subsampled_levels=1, square_size=128)
    images = random_images(70, 100)
    padded = torch.zeros(2, 3, 128, 128)
    padded[..., :70, :100] = images
    uncut_maps = pyramid(padded)
    assert sizes(uncut_maps) == [(16, 16), (8, 8), (4, 4), (2, 2)]
    cut_maps = pyramid(images)
    assert sizes(cut_maps) == [(9, 13), (5, 7), (3, 4), (2, 2)]
    for actual, expected in zip(cut_maps.values(), uncut_maps.values(), strict=True):
        assert_close(actual, expected[..., : actual.shape[-2], : actual.shape[-1]], rtol=0, atol=0)


@pytest.mark.parametrize(("square_size", "side"), [(128, 208), (200, 208)])
def test_squares_consist_of_whole_patches_and_contain_the_image(square_size, side):
    pyramid = make(square_size=square_size)
    pyramid(random_images(70, 200))
    assert pyramid.net.images.shape[-2:] == (side, side)


def norm_by_formula(x, layer):
    """Layer normalisation of the channels of each cell, by its definition."""
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
    return x * layer.weight[:, None, None] + layer.bias[:, None, None]


def test_levels_follow_the_formulas_of_the_paper():
    pyramid = make(subsampled_levels=1).double()
    for parameter in pyramid.parameters():
        nn.init.normal_(parameter, std=0.5)
    images = random_images(64, 96).double()
    x = pyramid.net(images)
    finest, fine, same, coarse = (getattr(pyramid, f"simfp_{n}") for n in (2, 3, 4, 5))
    up = F.conv_transpose2d(x, finest[0].weight, finest[0].bias, stride=2)
    up = F.conv_transpose2d(F.gelu(norm_by_formula(up, finest[1])), finest[3].weight, finest[3].bias, stride=2)
    scaled = [up, F.conv_transpose2d(x, fine[0].weight, fine[0].bias, stride=2), x, F.max_pool2d(x, 2)]
    assert [level.shape[1] for level in scaled] == [4, 8, 16, 16]
    maps = list(pyramid(images).values())
    for actual, expected, level in zip(maps[:4], scaled, (finest, fine, same, coarse), strict=True):
        narrow, smooth = level[-2:]
        expected = norm_by_formula(F.conv2d(expected, narrow.weight), narrow.norm)
        assert_close(actual, norm_by_formula(F.conv2d(expected, smooth.weight, padding=1), smooth.norm))
    assert_close(maps[4], maps[3][..., ::2, ::2], rtol=0, atol=0)


def test_every_parameter_learns():
    pyramid = make()
    sum(level.square().sum() for level in pyramid(random_images(48, 48)).values()).backward()
    assert [name for name, parameter in pyramid.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("prefix", ["", "net.", "backbone.net."])
def test_weights_of_the_transformer_are_loaded_with_any_prefix(tmp_path, prefix):
    small = {"embed_dim": 8, "depth": 2, "num_heads": 2, "hidden_dim": 16, "global_blocks": [1], "image_size": 64}
    transformer = ViTDet(**small)
    state = {f"{prefix}{name}": value for name, value in transformer.state_dict().items() if "rel_pos" not in name}
    torch.save({"model": {**state, f"{prefix}cls_token": torch.zeros(1, 1, 8)}}, tmp_path / "a.pth")
    loaded = SimpleFeaturePyramid(net=ViTDet(**small), weights=str(tmp_path / "a.pth")).state_dict()
    for name, value in transformer.state_dict().items():
        assert torch.equal(loaded[f"net.{name}"], value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": [3, 1]}, r"scales=\[3, 1\].*4, 2, 1, 0.5"),
        ({"scales": []}, "must be some of"),
        ({"scales": [1, 2]}, r"scales=\[1, 2\] must be halved"),
        ({"scales": [4, 1]}, "must be halved"),
        ({"scales": [4], "channels": 6}, "6 channels.*divided by 4"),
        ({"weights": "no/such.pth"}, "no/such.pth"),
    ],
)
def test_invalid_arguments_raise_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)
