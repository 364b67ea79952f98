"""Swin Transformers, compared with loops over windows that are written as the paper describes them."""

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


def padded(maps, multiple):
    """Maps (B, h, w, C) with zeros at the bottom and the right."""
    batch, height, width, channels = maps.shape
    whole = maps.new_zeros(batch, -(-height // multiple) * multiple, -(-width // multiple) * multiple, channels)
    whole[:, :height, :width] = maps
    return whole


def attention_in_a_window(attn, cells, places):
    """Of cells (B, N, C) at these N places (row, column)."""
    batch, number, channels = cells.shape
    query, key, value = attn.qkv(cells).view(batch, number, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    scores = query @ key.transpose(-1, -2) / (channels // attn.num_heads) ** 0.5
    side = attn.window_size[0]
    for (i, (row, column)), (j, (other_row, other_column)) in itertools.product(enumerate(places), repeat=2):
        offset = (row - other_row + side - 1) * (2 * side - 1) + column - other_column + side - 1
        scores[:, :, i, j] += attn.relative_position_bias_table[offset]
    return attn.proj((scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, number, channels))


def slow_block(block, maps, shift):
    """The windows of a padded map begin `shift` cells from the top and the left; those before are parts of windows."""
    height, width = maps.shape[1:3]
    side = block.attn.window_size[0]
    whole = padded(block.norm1(maps), side)
    attended = torch.empty_like(whole)
    windows = {}
    for row, column in itertools.product(range(whole.shape[1]), range(whole.shape[2])):
        windows.setdefault(((row - shift) // side, (column - shift) // side), []).append((row, column))
    for places in windows.values():
        rows, columns = zip(*places, strict=True)
        attended[:, rows, columns] = attention_in_a_window(block.attn, whole[:, rows, columns], places)
    maps = maps + attended[:, :height, :width]
    return maps + block.mlp(block.norm2(maps))


def slow_merging(merging, maps):
    maps = padded(maps, 2)
    corners = [maps[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
    return merging.reduction(merging.norm(torch.cat(corners, dim=-1)))


def slow_swin(network, images):
    patches = network.patch_embed
    maps = patches.norm(patches.proj(padded(images.movedim(1, -1), 4).movedim(-1, 1)).movedim(1, -1))
    for number, stage in enumerate(network.layers):
        if number > 0:
            maps = slow_merging(stage.downsample, maps)
        for position, block in enumerate(stage.blocks):
            maps = slow_block(block, maps, shift=3 * (position % 2))
        yield maps.movedim(-1, 1)


@pytest.mark.parametrize(
    ("height", "width"),
    [(45, 70), (64, 28), (56, 56), (8, 8)],
    ids=["odd maps", "windows of padding and without", "whole windows", "less than a window"],
)
def test_windows_are_those_of_padded_and_then_shifted_maps(height, width):
    backbone = randomised_swin()
    images = torch.randn(2, 3, height, width, dtype=torch.float64)
    with torch.no_grad():
        for got, want in zip(backbone(images).values(), slow_swin(backbone.model, images), strict=True):
            assert_close(got, want)
