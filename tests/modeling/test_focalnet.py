import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.checkpoint import CheckpointError
from detrex_lite.modeling import FocalNet, stage_channels
from detrex_lite.modeling.backbone.focalnet import FocalModulation

SMALL = {"embed_dim": 8, "depths": (1, 1, 2, 1), "focal_levels": (2, 2, 3, 2), "focal_windows": (3, 3, 3, 5)}


def make(**arguments):
    torch.manual_seed(0)
    return FocalNet(**{**SMALL, **arguments})


def random_images(height, width, batch=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def randomised(module):
    """Replace the initial scale of 1e-4 of the branches, which would hide their effect."""
    for name, parameter in module.named_parameters():
        if "gamma" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return module


@pytest.mark.parametrize(("height", "width"), [(64, 96), (45, 70), (3, 5)])
def test_maps_have_all_cells_that_start_inside_the_image(height, width):
    backbone = make(out_indices=[0, 1, 2, 3]).double().eval()
    maps = backbone(random_images(height, width, batch=2).double())
    assert {name: tuple(level.shape) for name, level in maps.items()} == {
        f"stage{n}": (2, 8 << n, math.ceil(height / (4 << n)), math.ceil(width / (4 << n))) for n in range(4)
    }
    assert {level.dtype for level in maps.values()} == {torch.float64}


def test_images_are_padded_with_zeros_to_a_multiple_of_four():
    backbone = randomised(make()).double().eval()
    images = random_images(45, 70).double()
    padded = torch.zeros(1, 3, 48, 72, dtype=torch.float64)
    padded[..., :45, :70] = images
    for actual, expected in zip(backbone(images).values(), backbone(padded).values(), strict=True):
        assert_close(actual, expected)


def test_float32_agrees_with_float64():
    backbone = randomised(make()).eval()
    images = random_images(45, 70)
    single = backbone(images)
    for actual, expected in zip(single.values(), backbone.double()(images.double()).values(), strict=True):
        assert_close(actual.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("normalize", [False, True])
def test_modulation_agrees_with_a_loop_over_cells(normalize):
    """Equation 5 of the paper in a loop over cells; with `normalize`, the sum of the contexts is their mean."""
    torch.manual_seed(0)
    modulation = FocalModulation(4, 2, 3, normalize=normalize).double()
    x = torch.randn(1, 5, 6, 4, dtype=torch.float64)
    projected = x @ modulation.f.weight.T + modulation.f.bias
    query, context, gates = projected.split([4, 4, 3], dim=-1)
    contexts = []
    for layer, side in zip(modulation.focal_layers, (3, 5), strict=True):
        kernel, gathered = layer[0].weight, torch.zeros_like(context)
        for row in range(5):
            for column in range(6):
                for y in range(side):
                    for z in range(side):
                        neighbour = row + y - side // 2, column + z - side // 2
                        if 0 <= neighbour[0] < 5 and 0 <= neighbour[1] < 6:
                            gathered[0, row, column] += kernel[:, 0, y, z] * context[0, neighbour[0], neighbour[1]]
        context = nn.functional.gelu(gathered)
        contexts.append(context)
    contexts.append(nn.functional.gelu(context.mean((1, 2), keepdim=True)))
    total = sum(context * gates[..., level, None] for level, context in enumerate(contexts)) / (3 if normalize else 1)
    modulator = total @ modulation.h.weight[:, :, 0, 0].T + modulation.h.bias
    assert_close(modulation(x), modulation.proj(query * modulator))


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_all_weights_are_trained(activation_checkpointing):
    backbone = make(activation_checkpointing=activation_checkpointing, drop_path_rate=0.0).train()
    sum(level.square().sum() for level in backbone(random_images(64, 64)).values()).backward()
    assert [
        name for name, parameter in backbone.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ] == []


def test_stages_without_outputs_are_not_built():
    backbone = make(out_indices=[1])
    assert len(backbone.layers) == 2
    assert backbone.layers[1].downsample is None
    assert backbone.channels == {"stage1": 16} == stage_channels(embed_dim=8, out_indices=[1])


def test_branches_are_dropped_in_training_only():
    backbone = randomised(make(drop_path_rate=0.9))
    images = random_images(64, 64)
    outputs = [maps["stage3"] for maps in (backbone.eval()(images), backbone.eval()(images))]
    assert_close(*outputs, rtol=0, atol=0)
    assert not torch.equal(backbone.train()(images)["stage3"], outputs[0])


def test_weights_of_a_classifier_are_loaded_and_missing_tensors_raise_an_error(tmp_path):
    classifier = make(out_indices=[3])
    state = {name: value for name, value in classifier.state_dict().items() if not name.startswith("norm3.")}
    torch.save(
        {"model": {**state, "norm.weight": torch.ones(64), "head.weight": torch.ones(5, 64)}}, tmp_path / "a.pth"
    )
    loaded = FocalNet(**SMALL, weights=str(tmp_path / "a.pth"))
    for name, value in state.items():
        assert torch.equal(loaded.state_dict()[name], value)
    state.pop("layers.2.blocks.1.gamma_1")
    torch.save(state, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"1 of the tensors.*layers\.2\.blocks\.1\.gamma_1"):
        FocalNet(**SMALL, weights=str(tmp_path / "b.pth"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out_indices": [1, 4]}, r"out_indices=\[1, 4\]"),
        ({"out_indices": []}, "out_indices"),
        ({"depths": (1, 1)}, "four stages"),
        ({"drop_path_rate": 1.0}, "drop_path_rate=1.0"),
        ({"weights": "no/such.pth"}, "no/such.pth"),
    ],
)
def test_invalid_arguments_raise_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)
