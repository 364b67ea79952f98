"""HGNetV2: sizes of maps, frozen parts and names of weights."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.layers import ConvNormAct, convert_to_deploy
from detrex_lite.modeling import HGNetv2, hgnetv2_channels
from detrex_lite.modeling.backbone.hgnetv2 import AffineReLU, Stem

# The parameters of the networks in D-FINE's repository, without the classification head.
PARAMETERS = {"B0": 1_850_396, "B1": 2_197_004, "B2": 6_026_626, "B3": 10_048_910, "B4": 13_507_680, "B5": 33_231_840}


@pytest.mark.parametrize("name", PARAMETERS)
def test_numbers_of_parameters_and_channels_are_those_of_d_fine(name):
    with torch.device("meta"):
        network = HGNetv2(name=name, use_lab=name in ("B0", "B1", "B2", "B3"), norm="BN" if name < "B4" else "FrozenBN")
        maps = network(torch.empty(1, 3, 64, 96))
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]
    assert {stage: maps[stage].shape[1] for stage in maps} == hgnetv2_channels(name=name)
    assert [tuple(level.shape[-2:]) for level in maps.values()] == [(8, 12), (4, 6), (2, 3)]


def test_odd_image_sizes_are_rounded_up():
    maps = HGNetv2(out_indices=[0, 3])(torch.rand(1, 3, 65, 37))
    assert {name: tuple(level.shape[-2:]) for name, level in maps.items()} == {"stage0": (17, 10), "stage3": (3, 2)}


def test_stages_without_outputs_are_not_built():
    assert len(HGNetv2(out_indices=[1]).stages) == 2


def test_use_lab_adds_an_affine_function_after_activations():
    torch.manual_seed(0)
    plain, affine = HGNetv2(out_indices=[0]).eval(), HGNetv2(out_indices=[0], use_lab=True).eval()
    affine.load_state_dict(plain.state_dict(), strict=False)
    images = torch.rand(1, 3, 32, 32)
    assert_close(affine(images)["stage0"], plain(images)["stage0"])
    last = [module for module in affine.modules() if isinstance(module, AffineReLU)][-1]
    nn.init.constant_(last.scale, 2.0)
    nn.init.constant_(last.bias, 3.0)
    assert_close(affine(images)["stage0"], 2 * plain(images)["stage0"] + 3)


def test_the_stem_concatenates_a_pooled_map():
    """If the convolutions parallel to the pooling give zero, the next convolution reads the pooled map only."""
    stem = Stem(ConvNormAct, 4, 4).eval()
    nn.init.zeros_(stem.stem2b.conv.weight)
    images = torch.rand(1, 3, 16, 16)
    pooled = nn.functional.max_pool2d(nn.functional.pad(stem.stem1(images), (0, 1, 0, 1)), 2, stride=1)
    expected = stem.stem4(stem.stem3(torch.cat([pooled, torch.zeros_like(pooled)], dim=1)))
    assert_close(stem(images), expected)


def test_frozen_parts_are_not_trained():
    network = HGNetv2(freeze_at=2).train()
    trained = {
        name.split(".")[0] + name.split(".")[1]
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    }
    assert trained == {"stages1", "stages2", "stages3"}
    mean = network.stem.stem1.norm.running_mean.clone()
    network(torch.rand(2, 3, 64, 64))
    assert_close(network.stem.stem1.norm.running_mean, mean, rtol=0, atol=0)
    assert network.stages[1].downsample.norm.running_mean.any()


def test_frozen_norms_are_buffers():
    network = HGNetv2(norm="FrozenBN")
    assert "stem.stem1.norm.weight" in dict(network.named_buffers())
    assert not [name for name, _ in network.named_parameters() if ".norm." in name]


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_norms_are_folded_for_deployment(norm):
    network = HGNetv2(norm=norm, use_lab=True).double().eval()
    for module in network.modules():
        if hasattr(module, "running_mean"):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    images = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    before = network(images)
    after = convert_to_deploy(network)(images)
    for stage, level in before.items():
        assert_close(after[stage], level)
    assert not [name for name in network.state_dict() if ".norm." in name]


def test_imagenet_weights_load_with_the_names_of_their_authors(tmp_path):
    network = HGNetv2(use_lab=True)
    state = {
        name.replace(".norm.", ".bn.").replace(".act.", ".lab."): value for name, value in network.state_dict().items()
    }
    torch.save(state, tmp_path / "PPHGNetV2_B0_stage1.pth")
    loaded = HGNetv2(use_lab=True, weights=str(tmp_path / "PPHGNetV2_B0_stage1.pth"))
    for name, value in loaded.state_dict().items():
        assert_close(value, network.state_dict()[name], rtol=0, atol=0)


def test_weights_of_a_detector_load(tmp_path):
    network = HGNetv2(out_indices=[0])
    torch.save(
        {"model": {f"backbone.{name}": value for name, value in network.state_dict().items()}}, tmp_path / "a.pth"
    )
    loaded = HGNetv2(out_indices=[0], weights=str(tmp_path / "a.pth"))
    for name, value in loaded.state_dict().items():
        assert_close(value, network.state_dict()[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "B9"}, "no HGNetv2 'B9'"),
        ({"out_indices": [4]}, r"out_indices=\[4\]"),
        ({"out_indices": []}, r"out_indices=\[\]"),
        ({"norm": "LN"}, "norm='LN'"),
        ({"freeze_at": 6}, "freeze_at=6"),
        ({"weights": "nowhere.pth"}, "nowhere.pth"),
    ],
)
def test_invalid_arguments_raise_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        HGNetv2(**arguments)
