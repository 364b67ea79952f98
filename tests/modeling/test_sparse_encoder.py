"""The sparse encoder of Focus-DETR and its foreground scores, compared with loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from detrex_lite.layers import FFN, MultiheadAttention, MultiScaleDeformableAttention
from detrex_lite.modeling import Targets, TokenLevels
from detrex_lite.modeling.deformable import ForegroundScores, SparseEncoder, SparseEncoderLayer
from detrex_lite.structures import ImageBatch, box_cxcywh_to_xyxy

C, HEADS = 8, 2
STRIDES = (8, 16, 32)
SHAPES = [(8, 10), (4, 5), (2, 3)]
# Sizes of two images in each level.
WHOLE = [SHAPES, SHAPES]
ONE_PADDED = [SHAPES, [(5, 4), (3, 2), (2, 1)]]
BOTH_PADDED = [[(8, 7), (4, 4), (2, 2)], [(5, 10), (3, 5), (2, 3)]]


def levels_of(number=2, sizes=ONE_PADDED):
    sizes = sizes[:number]
    maps = [
        ImageBatch.of_padded(
            torch.zeros(number, 1, *shape), [image_sizes[level] for image_sizes in sizes], as_published=True
        )
        for level, shape in enumerate(SHAPES)
    ]
    return TokenLevels.from_maps(maps)


def foreground_of(**arguments):
    torch.manual_seed(0)
    scores = ForegroundScores(embed_dim=C, strides=STRIDES, **arguments).double()
    nn.init.normal_(scores.modulation)
    return scores


def tokens_of(number=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, sum(height * width for height, width in SHAPES), C, generator=generator).double()


def test_coarser_levels_modulate_finer_levels():
    foreground, levels, tokens = foreground_of(), levels_of(), tokens_of()

    def score(level):  # (cells, C)
        hidden = foreground.features(level)
        mean = hidden[:, C // 2 :].mean(0).expand(len(hidden), -1)
        return foreground.score(torch.cat([hidden[:, : C // 2], mean], dim=1))

    scores = foreground(tokens, levels)
    assert [tuple(level_scores.shape) for level_scores in scores] == [(2, 1, *shape) for shape in SHAPES]
    for image in range(2):
        coarse = None
        for index in (2, 1, 0):
            level = levels.maps(tokens)[index][image]  # (C, h, w)
            if coarse is not None:
                upsampled = F.interpolate(coarse[None], level.shape[-2:], mode="bilinear", align_corners=True)[0]
                corners = [upsampled[0, 0, 0], upsampled[0, -1, -1]]
                assert_close(corners, [coarse[0, 0, 0], coarse[0, -1, -1]])
                # The first value of `modulation` belongs to the map of stride 16.
                level = level * (1 + upsampled * foreground.modulation[1 - index])
            coarse = score(level.flatten(1).T).T.unflatten(1, level.shape[-2:])
            assert_close(scores[index][image], coarse)


def loss_in_loops(scores, boxes, sizes):
    """The loss in loops; `boxes` has the CXCYWH boxes of each image in 0..1."""
    total = 0.0
    for image, (height, width) in enumerate(sizes):
        losses, positives = 0.0, 0
        for level, stride in enumerate(STRIDES):
            low, high = (-1, 64) if level == 0 else (64, 128) if level == 1 else (128, math.inf)
            for row in range(SHAPES[level][0]):
                for column in range(SHAPES[level][1]):
                    x, y = column * stride + stride // 2, row * stride + stride // 2
                    is_positive = False
                    for box in box_cxcywh_to_xyxy(boxes[image]).tolist():
                        x0, y0, x1, y1 = box[0] * width, box[1] * height, box[2] * width, box[3] * height
                        sides = (x - x0, y - y0, x1 - x, y1 - y)
                        is_positive |= min(sides) > 0 and low < max(sides) <= high
                    p = float(scores[level][image, 0, row, column].sigmoid())
                    p, weight = (p, 0.25) if is_positive else (1 - p, 0.75)
                    losses -= weight * (1 - p) ** 2 * math.log(p)
                    positives += is_positive
        total += losses / max(positives, 1)
    return 1.5 * total / len(sizes)


@pytest.mark.parametrize("numbers", [(3, 1), (0, 2), (0, 0)])
def test_tokens_are_positive_inside_boxes_in_the_size_range_of_their_level(numbers):
    generator = torch.Generator().manual_seed(3)
    scores = [torch.randn(2, 1, *shape, generator=generator).double() for shape in SHAPES]
    sides = [torch.tensor([[0.3, 0.2], [0.9, 0.8], [1.0, 1.0]]).double()[:number] for number in numbers]
    boxes = [torch.cat([0.5 * torch.ones_like(side) + 0.05, 0.9 * side], dim=1) for side in sides]
    sizes = [(320, 400), (200, 160)]
    packed = torch.cat(boxes)
    targets = Targets(torch.zeros(len(packed), dtype=torch.int64), packed, list(numbers))
    expected = loss_in_loops(scores, boxes, [(64, 80), (40, 32)])
    assert_close(float(foreground_of().loss(scores, targets, [(64, 80), (40, 32)])), expected)
    assert_close(float(foreground_of().loss(scores, targets, sizes)), loss_in_loops(scores, boxes, sizes))


def layer_of(num_best=5):
    return SparseEncoderLayer(
        self_attn=MultiheadAttention(C, HEADS),
        attn=MultiScaleDeformableAttention(C, num_heads=HEADS, num_levels=3, num_points=2),
        ffn=FFN(C, 16),
        norm=nn.LayerNorm(C),
        num_best=num_best,
    )


def encoder_of(**arguments):
    torch.manual_seed(0)
    fractions = {"foreground_share": 0.5, "layer_shares": [1.0, 0.6, 0.2]}
    encoder = SparseEncoder(layer=layer_of(), num_layers=3, foreground=foreground_of(), **{**fractions, **arguments})
    for parameter in encoder.parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return encoder.double().eval()


def encode_in_loops(encoder, tokens, pos, levels, scores, class_score):
    """Encode image by image and token by token; all images select as many tokens as the largest image."""
    batch = len(scores)
    padding = torch.zeros_like(scores, dtype=torch.bool) if levels.padding is None else levels.padding
    foreground = [int(0.5 * int((~image_padding).sum())) + 1 for image_padding in padding]
    output = tokens.clone()
    lowest = scores.min()
    centres = levels.in_maps(levels.centres()).expand(batch, -1, -1, -1)
    # Padding has equal scores. It is sorted once, for the largest number, so that all layers choose the same padding.
    order = torch.where(padding, lowest, scores).topk(max(foreground), dim=1).indices
    for layer, fraction in zip(encoder.layers, encoder.layer_shares, strict=True):
        result = output.clone()
        for image in range(batch):
            ranked = torch.where(padding[image], lowest, scores[image])
            chosen = order[image, : int(fraction * max(foreground))]
            query, own_pos = output[image, chosen], pos[image, chosen]
            quality = class_score(query[None])[0] * ranked[chosen]
            best = quality.topk(min(layer.num_best, len(chosen))).indices
            attention, norms = layer.among_best.attentions[0], layer.among_best.norms
            query[best] = norms[0](
                attention(query[best][None], query_pos=own_pos[best][None], key_pos=own_pos[best][None])
            )[0]
            read = layer.read.attentions[
                0
            ](
                query[None],
                value=tokens[image : image + 1],  # all layers read the input of the encoder
                query_pos=own_pos[None],
                key_padding_mask=padding[image : image + 1],
                reference_points=centres[image, chosen][None],
                spatial_shapes=levels.spatial_shapes,
            )[0]
            read = layer.read.norms[0](read)
            read = layer.read.norms[1](layer.read.ffns[0](read))
            for token, refined in list(zip(chosen.tolist(), read, strict=True))[: foreground[image]]:
                result[image, token] = refined
        output = result
    return output


@pytest.mark.parametrize(("sizes", "refined"), [(WHOLE, [54, 54]), (ONE_PADDED, [54, 15]), (BOTH_PADDED, [39, 36])])
@pytest.mark.parametrize("num_best", [5, 300])
def test_layers_refine_foreground_tokens_only(sizes, refined, num_best):
    encoder, levels, tokens, pos = encoder_of(), levels_of(sizes=sizes), tokens_of(), tokens_of(seed=2)
    for layer in encoder.layers:
        layer.num_best = num_best
    scores = torch.randn(tokens.shape[:2], generator=torch.Generator().manual_seed(4)).double()
    head = nn.Linear(C, 4).double()

    def class_score(tokens_to_score):
        return head(tokens_to_score).max(-1).values

    with torch.no_grad():
        actual = encoder(tokens, pos=pos, levels=levels, scores=scores, class_score=class_score)
        expected = encode_in_loops(encoder, tokens, pos, levels, scores, class_score)
    assert_close(actual, expected)
    changed = (actual != tokens).any(-1)
    assert changed.sum(1).tolist() == refined
    if levels.padding is not None:
        assert not changed[levels.padding].any()


def test_selecting_tokens_gives_no_gradients_to_scores():
    encoder, levels, tokens = encoder_of(), levels_of(1, WHOLE), tokens_of(1)
    scores = torch.randn(tokens.shape[:2]).double().requires_grad_()
    head = nn.Linear(C, 4).double()
    encoded = encoder(
        tokens,
        pos=tokens_of(1, seed=2),
        levels=levels,
        scores=scores,
        class_score=lambda tokens_to_score: head(tokens_to_score).max(-1).values,
    )
    encoded.sum().backward()
    assert scores.grad is None
    assert head.weight.grad is None
    assert all(parameter.grad is not None for layer in encoder.layers for parameter in layer.parameters())


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"layer_shares": [1.0, 0.5]}, "layer_shares has 2 numbers.* 3 "),
        ({"layer_shares": [1.0, 0.5, 0.0]}, "0.0"),
        ({"foreground_share": 1.5}, "1.5"),
    ],
)
def test_errors(arguments, match):
    with pytest.raises(ValueError, match=match):
        encoder_of(**arguments)


def test_num_best_of_zero_raises_an_error():
    with pytest.raises(ValueError, match="num_best=0"):
        layer_of(num_best=0)
