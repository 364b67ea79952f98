"""Convolutional blocks before and after they are converted for deployment."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchvision.ops import FrozenBatchNorm2d

from detrex_lite.layers import (
    ConvNormAct,
    CSPRepLayer,
    RepNCSPELAN,
    RepVGGBlock,
    SCDown,
    convert_to_deploy,
    make_activation,
)

BLOCKS = {
    "convolution": lambda: ConvNormAct(6, 8, 3, stride=2, activation=nn.SiLU),
    "depthwise": lambda: ConvNormAct(6, 6, 5, groups=6),
    "bias": lambda: ConvNormAct(6, 8, 1, bias=True),
    "frozen norm": lambda: ConvNormAct(6, 8, 1, norm=FrozenBatchNorm2d, activation=nn.ReLU),
    "no norm": lambda: ConvNormAct(6, 8, 1, norm=None),
    "group norm": lambda: ConvNormAct(6, 8, 1, norm=lambda channels: nn.GroupNorm(2, channels)),
    "RepVGG": lambda: RepVGGBlock(6, 8),
    "CSP": lambda: CSPRepLayer(8, 6, num_blocks=2, expansion=0.5),
    "ELAN": lambda: RepNCSPELAN(8, 6, num_blocks=1, expansion=0.5),
    "SCDown": lambda: SCDown(6, 8),
    "CSP without a third convolution": lambda: CSPRepLayer(8, 6, num_blocks=1, activation=None),
}


def randomised(module):
    """The module in evaluation mode, with random statistics and affine parameters instead of the initial ones."""
    for part in module.modules():
        for name, value in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            if value.dim() == 1:
                value.data = 0.5 + torch.rand_like(value)
            assert name
    return module.eval()


@pytest.mark.parametrize("name", BLOCKS)
def test_a_deployed_block_gives_the_same_output_without_norms(name):
    torch.manual_seed(0)
    block = randomised(BLOCKS[name]()).double()
    deployed = convert_to_deploy(copy.deepcopy(block))
    x = torch.randn(2, 6, 7, 9, dtype=torch.float64)
    assert_close(deployed(x), block(x))
    kinds = {type(module) for module in deployed.modules()}
    assert not kinds & {nn.BatchNorm2d, FrozenBatchNorm2d}
    deployed_twice = convert_to_deploy(copy.deepcopy(deployed))
    assert deployed_twice.state_dict().keys() == deployed.state_dict().keys()
    assert_close(deployed_twice(x), deployed(x))


def test_deployed_branches_become_one_convolution():
    deployed = convert_to_deploy(RepVGGBlock(6, 8))
    assert {name: tuple(value.shape) for name, value in deployed.state_dict().items()} == {
        "conv.weight": (8, 6, 3, 3),
        "conv.bias": (8,),
    }


def test_deploying_keeps_dtype_and_layout_and_ends_training():
    block = ConvNormAct(4, 8, 3).to(memory_format=torch.channels_last).half().train()
    assert convert_to_deploy(block) is block
    assert block.conv.weight.dtype == torch.float16
    assert block.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert not block.training
    assert not block.conv.weight.requires_grad


def test_a_csp_layer_reads_two_maps_by_default():
    assert CSPRepLayer(8)(torch.zeros(1, 16, 3, 5)).shape == (1, 8, 3, 5)
    assert CSPRepLayer(8, 6)(torch.zeros(1, 6, 3, 5)).shape == (1, 8, 3, 5)


def test_elan_aggregates_the_outputs_of_all_stages():
    """The last convolution reads both halves of the first convolution's output and the outputs of the two stages."""
    block = randomised(RepNCSPELAN(4, 6, num_blocks=1))
    x = torch.randn(1, 6, 5, 5)
    first, second = block.conv1(x).chunk(2, dim=1)
    third = block.stages[0](second)
    assert_close(block(x), block.conv2(torch.cat([first, second, third, block.stages[1](third)], dim=1)))


@pytest.mark.parametrize(("expansion", "hidden"), [(1.0, 64), (0.5, 32), (0.34, 21)])
def test_the_hidden_width_of_elan_stages_is_rounded_down(expansion, hidden):
    block = RepNCSPELAN(128, expansion=expansion, num_blocks=1)
    assert block.conv2.conv.weight.shape == (128, 256 + 2 * hidden, 1, 1)


def test_scdown_halves_maps_by_a_depthwise_convolution():
    block = SCDown(4, 6)
    assert block(torch.zeros(1, 4, 7, 8)).shape == (1, 6, 4, 4)
    assert block.depthwise.conv.weight.shape == (6, 1, 3, 3)


@pytest.mark.parametrize("name", ["convolution", "RepVGG", "CSP", "ELAN", "SCDown"])
def test_reset_parameters_redraws_all_weights(name):
    block = BLOCKS[name]()
    before = {name: value.clone() for name, value in block.named_parameters() if value.dim() > 1}
    block.reset_parameters()
    assert all(not torch.equal(before[name], value) for name, value in block.named_parameters() if name in before)


def test_an_activation_is_a_module_a_class_or_none():
    activation = nn.PReLU()
    copied = make_activation(activation)
    assert isinstance(copied, nn.PReLU)
    assert copied is not activation
    assert isinstance(make_activation(nn.SiLU), nn.SiLU)
    assert isinstance(make_activation(None), nn.Identity)
