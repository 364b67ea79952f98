import math

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.modeling.collaborative import ATSSHead, centerness

from .pyramids import SIZES, giou, make_pyramid, make_targets, pixels
from .test_assignment import atss_by_a_loop

CLASSES = 4


@pytest.fixture
def head():
    torch.manual_seed(0)
    head = ATSSHead(embed_dim=32, num_classes=CLASSES, num_feature_levels=2, anchor_scale=3.0).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.constant_(head.box_scales, 1.3)
    return head


def central(x, y, box):
    left, up, right, down = x - box[0], y - box[1], box[2] - x, box[3] - y
    return math.sqrt(min(left, right) / max(left, right) * min(up, down) / max(up, down))


def test_losses_are_those_of_a_loop(head):
    pyramid, targets = make_pyramid(), make_targets((6, 0))
    result = head(pyramid, targets)
    logits, offsets, centres = (one.tolist() for one in head.read(pyramid))
    anchors, first = pyramid.anchors([3.0], [1.0]), 0
    positives, of_classes, of_boxes, of_centres, quality = 0, 0.0, 0.0, 0.0, 0.0
    for image, size in enumerate(SIZES):
        objects, own = pixels(targets, image), 0
        assigned = atss_by_a_loop(anchors, anchors.inside(size).tolist(), objects, 9)
        assert result.candidates[image].assigned.tolist() == assigned
        for index, owner in enumerate(assigned):
            if owner == -2:
                continue
            label = int(targets.labels[first + owner]) if owner >= 0 else None
            for number in range(CLASSES):
                p = 1 / (1 + math.exp(-logits[image][index][number]))
                if number == label:
                    of_classes -= 0.25 * (1 - p) ** 2 * math.log(p)
                else:
                    of_classes -= 0.75 * p**2 * math.log(1 - p)
            if owner < 0:
                continue
            own += 1
            x0, y0, x1, y1 = anchors.boxes[index].tolist()
            x, y, w, h = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
            dx, dy, dw, dh = offsets[image][index]
            goal = central(x, y, objects[owner])
            x, y, w, h = x + 0.1 * dx * w, y + 0.1 * dy * h, w * math.exp(0.2 * dw), h * math.exp(0.2 * dh)
            box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            of_boxes += goal * (1 - giou(box, objects[owner]))
            p = 1 / (1 + math.exp(-centres[image][index][0]))
            of_centres -= goal * math.log(p) + (1 - goal) * math.log(1 - p)
            quality += goal
        positives += max(own, 1)  # an image without objects counts as one
        first += targets.sizes[image]
    expected = {
        "class": of_classes / positives,
        "giou": 2 * of_boxes / max(quality, 1),
        "centerness": of_centres / positives,
    }
    assert_close({name: loss.item() for name, loss in result.losses.items()}, expected)


def test_candidates_hold_what_the_maps_do(head):
    pyramid = make_pyramid()
    (_, second) = head(pyramid, make_targets()).candidates
    assert_close(second.features[8 * 12 + 7], pyramid.maps[1][1, :, 1, 1])
    assert_close(second.boxes, pyramid.anchors([3.0], [1.0]).boxes)


def test_objects_are_rare_at_first():
    head = ATSSHead(embed_dim=32, num_classes=CLASSES, num_feature_levels=2).double()
    logits, _, _ = head.read(make_pyramid())
    assert_close(logits.sigmoid().mean(), torch.tensor(0.01, dtype=torch.float64), rtol=0.3, atol=0)


def test_centerness_is_one_in_the_middle():
    box = torch.tensor([[0.0, 0, 8, 4]]).expand(3, -1)
    found = centerness(torch.tensor([[4.0, 2], [2, 2], [2, 1]]), box)
    assert_close(found, torch.tensor([1.0, math.sqrt(1 / 3), 1 / 3]))


def test_another_number_of_levels_is_refused(head):
    head = ATSSHead(embed_dim=32, num_classes=CLASSES, num_feature_levels=4).double()
    with pytest.raises(ValueError, match="num_feature_levels must be 2, not 4"):
        head(make_pyramid(), make_targets())
