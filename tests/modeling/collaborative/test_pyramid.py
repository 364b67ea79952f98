import math

import torch
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder

from detrex_lite.modeling.collaborative import decode_boxes, encode_boxes

from .pyramids import SIZES, STRIDES, make_pyramid, make_targets, pixels


def test_anchors_are_centred_at_the_corners_of_cells():
    pyramid, scales, ratios = make_pyramid(), [4.0, 6.0], [0.5, 2.0]
    anchors = pyramid.anchors(scales, ratios)
    expected = []
    for stride in STRIDES:
        for row in range(64 // stride):
            for column in range(96 // stride):
                for ratio in ratios:
                    for scale in scales:
                        x, y = column * stride, row * stride
                        w, h = stride * scale / math.sqrt(ratio), stride * scale * math.sqrt(ratio)
                        expected.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    assert_close(anchors.boxes, torch.tensor(expected, dtype=torch.float64))
    assert anchors.sizes == [8 * 12 * 4, 4 * 6 * 4, 2 * 3 * 4]


def test_anchors_in_the_padding_are_not_inside():
    anchors = make_pyramid().anchors([8.0], [1.0])
    centres = anchors.centres().tolist()
    assert anchors.inside(SIZES[0]).tolist() == [x < 80 and y < 50 for x, y in centres]
    assert 0 < anchors.inside(SIZES[0]).sum() < len(centres)


def test_normalising_boxes_in_pixels_restores_the_targets():
    pyramid, targets = make_pyramid(), make_targets()
    for image, boxes in enumerate(pyramid.objects(targets)):
        assert_close(boxes, torch.tensor(pixels(targets, image), dtype=torch.float64))
        assert_close(pyramid.normalised(boxes, image), targets.boxes.split(targets.sizes)[image])


def test_box_offsets_agree_with_torchvision():
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(2, 20, 2, generator=generator, dtype=torch.float64) * 50
    boxes, anchors = torch.cat([low, low + 1 + low.flip(1)], dim=-1)
    stds = (0.1, 0.1, 0.2, 0.2)
    offsets = encode_boxes(boxes, anchors, stds)
    coder = BoxCoder([1 / std for std in stds])
    assert_close(offsets, coder.encode_single(boxes, anchors))
    assert_close(decode_boxes(offsets, anchors, stds), boxes)
    assert_close(decode_boxes(-offsets, anchors, stds), coder.decode_single(-offsets, anchors))


def test_box_scaling_is_clamped():
    anchor = torch.tensor([[0.0, 0, 10, 10]])
    grown = decode_boxes(torch.full((1, 4), 100.0), anchor, (0.0, 0.0, 1.0, 1.0))
    assert_close(grown[0, 2:] - grown[0, :2], torch.full((2,), 10 * 1000 / 16))
    shrunk = decode_boxes(torch.full((1, 4), -100.0), anchor, (0.0, 0.0, 1.0, 1.0))
    assert_close(shrunk[0, 2:] - shrunk[0, :2], torch.full((2,), 10 * 16 / 1000))
