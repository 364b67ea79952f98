"""Swin Transformers, compared with loops over windows that follow the paper."""

import itertools

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from detrex_lite.modeling import TimmBackbone

pytest.importorskip("timm", reason="the package timm is not installed")


def randomised_swin():
    torch.manual_seed(0)
    backbone = TimmBackbone(model_name="swin_tiny_patch4_window7_224", out_indices=[0, 1, 2, 3]).double().eval()
    for name, parameter in backbone.named_parameters():
        if parameter.dim() == 1 or "bias_table" in name:
            nn.init.normal_(parameter, std=0.5)
    return backbone


def pad(maps, multiple):
    """Maps (B, h, w, C) with zeros at the bottom and the right."""
    batch, height, width, channels = maps.shape
    result = maps.new_zeros(batch, -(-height // multiple) * multiple, -(-width // multiple) * multiple, channels)
    result[:, :height, :width] = maps
    return result


def attention_in_a_window(attn, cells, positions):
    """Attention between cells (B, N, C) at N positions (row, column)."""
    batch, number, channels = cells.shape
    query, key, value = attn.qkv(cells).view(batch, number, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2) / (channels // attn.num_heads) ** 0.5
    side = attn.window_size[0]
    for (i, (row, column)), (j, (other_row, other_column)) in itertools.product(enumerate(positions), repeat=2):
        offset = (row - other_row + side - 1) * (2 * side - 1) + column - other_column + side - 1
        scores[:, :, i, j] += attn.relative_position_bias_table[offset]
    return attn.proj((scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, number, channels))


def block_in_a_loop(block, maps, shift):
    """Windows of a padded map start `shift` cells from the top and the left; windows at the borders are partial."""
    height, width = maps.shape[1:3]
    side = block.attn.window_size[0]
    padded_maps = pad(block.norm1(maps), side)
    attended = torch.empty_like(padded_maps)
    windows = {}
    for row, column in itertools.product(range(padded_maps.shape[1]), range(padded_maps.shape[2])):
        windows.setdefault(((row - shift) // side, (column - shift) // side), []).append((row, column))
    for positions in windows.values():
        rows, columns = zip(*positions, strict=True)
        attended[:, rows, columns] = attention_in_a_window(block.attn, padded_maps[:, rows, columns], positions)
    maps = maps + attended[:, :height, :width]
    return maps + block.mlp(block.norm2(maps))


def merging_by_formula(merging, maps):
    maps = pad(maps, 2)
    corners = [maps[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    return merging.reduction(merging.norm(torch.cat(corners, dim=-1)))


def swin_in_loops(network, images):
    patches = network.patch_embed
    maps = patches.norm(patches.proj(pad(images.movedim(1, -1), 4).movedim(-1, 1)).movedim(1, -1))
    for number, stage in enumerate(network.layers):
        if number > 0:
            maps = merging_by_formula(stage.downsample, maps)
        for position, block in enumerate(stage.blocks):
            maps = block_in_a_loop(block, maps, shift=3 * (position % 2))
        yield maps.movedim(-1, 1)


@pytest.mark.parametrize(
    ("height", "width"),
    [(45, 70), (64, 28), (56, 56), (8, 8)],
    ids=["odd maps", "windows with and without padding", "whole windows", "smaller than a window"],
)
def test_windows_are_shifted_after_padding(height, width):
    backbone = randomised_swin()
    images = torch.randn(2, 3, height, width, dtype=torch.float64)
    with torch.no_grad():
        for actual, expected in zip(backbone(images).values(), swin_in_loops(backbone.model, images), strict=True):
            assert_close(actual, expected)
