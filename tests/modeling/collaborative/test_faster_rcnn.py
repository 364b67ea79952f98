import math

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import roi_align

from detrex_lite.modeling.collaborative import FasterRCNNHead, assign_by_overlap, roi_levels
from detrex_lite.structures import pairwise_iou

from .pyramids import SIZES, giou, iou, make_pyramid, make_targets, pixels

CLASSES = 4


@pytest.fixture
def head():
    """A head with random weights that samples all anchors and regions."""
    torch.manual_seed(0)
    head = FasterRCNNHead(
        embed_dim=32, num_classes=CLASSES, hidden_dim=16, num_proposals=40, rpn_samples=10000, roi_samples=1000
    ).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return head


def decode(box, offsets, stds):
    x0, y0, x1, y1 = box
    x, y, w, h = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
    dx, dy, dw, dh = (offset * std for offset, std in zip(offsets, stds, strict=True))
    x, y, w, h = x + dx * w, y + dy * h, w * math.exp(dw), h * math.exp(dh)
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def outputs_of_the_first_stage(head, pyramid):
    """Scores (B, N) and box offsets (B, N, 4) of all anchors, collected cell by cell."""
    logits, offsets = head.rpn(list(pyramid.maps))
    scores, changes = [], []
    for level_logits, level_offsets in zip(logits, offsets, strict=True):
        for row in range(level_logits.shape[2]):
            for column in range(level_logits.shape[3]):
                for anchor in range(9):
                    scores.append(level_logits[:, anchor, row, column])
                    changes.append(level_offsets[:, 4 * anchor : 4 * anchor + 4, row, column])
    return torch.stack(scores, 1).detach(), torch.stack(changes, 1).detach()


def test_anchors_have_three_scales_per_octave():
    assert FasterRCNNHead(embed_dim=8, num_classes=1).scales == pytest.approx([4, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)])


def test_losses_of_proposals_agree_with_a_loop(head):
    pyramid, targets = make_pyramid(), make_targets((3, 2))
    losses = head(pyramid, targets).losses
    scores, changes = outputs_of_the_first_stage(head, pyramid)
    anchors = pyramid.anchors(head.scales, head.ratios)
    class_loss, box_loss, number = 0.0, 0.0, 0
    for image, size in enumerate(SIZES):
        objects = pixels(targets, image)
        inside = anchors.inside(size)
        overlaps = pairwise_iou(torch.tensor(objects, dtype=torch.float64), anchors.boxes[inside])
        assigned = assign_by_overlap(overlaps, 0.7, 0.3, 0.3).tolist()
        assert max(assigned) >= 0
        for index, owner in zip(inside.nonzero()[:, 0].tolist(), assigned, strict=True):
            if owner == -2:
                continue
            number += 1
            p = 1 / (1 + math.exp(-scores[image, index]))
            class_loss -= math.log(p if owner >= 0 else 1 - p)
            if owner >= 0:
                x0, y0, x1, y1 = anchors.boxes[index].tolist()
                u0, v0, u1, v1 = objects[owner]
                expected_offsets = [
                    ((u0 + u1) / 2 - (x0 + x1) / 2) / (x1 - x0),
                    ((v0 + v1) / 2 - (y0 + y1) / 2) / (y1 - y0),
                    math.log((u1 - u0) / (x1 - x0)),
                    math.log((v1 - v0) / (y1 - y0)),
                ]
                predicted = changes[image, index].tolist()
                box_loss += sum(
                    abs(actual - expected) for actual, expected in zip(predicted, expected_offsets, strict=True)
                )
    assert_close(losses["rpn_class"].item(), class_loss / number)
    assert_close(losses["rpn_bbox"].item(), box_loss / number)


def test_proposals_agree_with_a_loop(head):
    pyramid, image = make_pyramid(), 0
    head.num_before_nms = 50
    scores, changes = outputs_of_the_first_stage(head, pyramid)
    anchors = pyramid.anchors(head.scales, head.ratios)
    actual = head.propose(scores[image], changes[image], anchors, SIZES[image])
    boxes, first = [], 0
    for level, size in enumerate(anchors.sizes):
        order = scores[image, first : first + size].argsort(descending=True)[:50] + first
        for index in order.tolist():
            x0, y0, x1, y1 = decode(anchors.boxes[index].tolist(), changes[image, index].tolist(), [1, 1, 1, 1])
            box = [min(max(x0, 0), 80), min(max(y0, 0), 50), min(max(x1, 0), 80), min(max(y1, 0), 50)]
            if box[0] < box[2] and box[1] < box[3]:
                boxes.append((scores[image, index].item(), level, box))
        first += size
    kept = []
    for score, level, box in sorted(boxes, reverse=True):
        if all(level != kept_level or iou(box, kept_box) <= 0.7 for _, kept_level, kept_box in kept):
            kept.append((score, level, box))
    assert len(kept) > 40
    assert_close(actual, torch.tensor([box for _, _, box in kept[:40]], dtype=torch.float64))


def test_losses_of_regions_agree_with_a_loop(head):
    pyramid, targets = make_pyramid(), make_targets((3, 0))
    result = head(pyramid, targets)
    class_loss, box_loss, number = 0.0, 0.0, 0
    for image, candidates in enumerate(result.candidates):
        objects = pixels(targets, image)
        for region, owner in zip(candidates.boxes, candidates.assigned.tolist(), strict=True):
            overlaps = [iou(region.tolist(), box) for box in objects]
            expected = overlaps.index(max(overlaps)) if overlaps and max(overlaps) >= 0.5 else -1
            assert owner == expected
            pooled = head.pool(pyramid, region[None], torch.tensor([image]))
            hidden = head.box_head(pooled)
            label = int(targets.labels[owner]) if owner >= 0 else CLASSES
            class_loss -= head.class_embed(hidden)[0].log_softmax(0)[label].item()
            number += 1
            if owner >= 0:
                offsets = head.bbox_embed(hidden)[0, 4 * label : 4 * label + 4].tolist()
                box_loss += 1 - giou(decode(region.tolist(), offsets, [0.1, 0.1, 0.2, 0.2]), objects[owner])
    assert {0, 1, 2} <= set(result.candidates[0].assigned.tolist())  # the objects themselves are regions
    assert_close(result.losses["class"].item(), class_loss / number)
    assert_close(result.losses["giou"].item(), 10 * box_loss / number)


def test_the_level_of_a_region_follows_from_its_size():
    sides = torch.tensor([1.0, 223, 225, 447, 449, 5000])
    regions = torch.stack([torch.zeros(6), torch.zeros(6), sides, sides], dim=1)
    assert roi_levels(regions, 112, 3).tolist() == [0, 0, 1, 1, 2, 2]


def test_pooled_features_agree_with_torchvision(head):
    pyramid = make_pyramid()
    regions = torch.tensor([[3.0, 5, 40, 30], [0, 0, 90, 60], [7, 2, 20, 61]], dtype=torch.float64)
    regions = torch.cat([regions, 6 * regions])  # beyond the image, but of the second level
    image = torch.tensor([0, 1, 1, 0, 1, 0])
    pooled = head.pool(pyramid, regions, image)
    for actual, region, index in zip(pooled, regions, image.tolist(), strict=True):
        level = int(roi_levels(region[None], 14 * 8, 2))
        stride, maps = pyramid.strides[level], pyramid.maps[level][index][None]
        assert_close(actual, roi_align(maps, [region[None]], 7, 1 / stride, aligned=True)[0])
    assert set(roi_levels(regions, 14 * 8, 2).tolist()) == {0, 1}
    first = head(pyramid, make_targets()).candidates[0]
    maps = head.pool(pyramid, first.boxes, torch.zeros(len(first.boxes)))
    assert_close(first.features, maps.mean(dim=(2, 3)))


def test_an_image_without_proposals_or_objects_trains(head):
    head.num_proposals = 0
    result = head(make_pyramid(), make_targets((0, 0)))
    assert [len(candidates.boxes) for candidates in result.candidates] == [0, 0]
    sum(result.losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in head.parameters())
