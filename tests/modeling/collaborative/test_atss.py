import math

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.modeling.collaborative import ATSSHead, centerness

from .pyramids import SIZES, giou, make_pyramid, make_targets, pixels
from .test_assignment import atss_in_a_loop

CLASSES = 4


@pytest.fixture
def head():
    torch.manual_seed(0)
    head = ATSSHead(embed_dim=32, num_classes=CLASSES, num_feature_levels=2, anchor_scale=3.0).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.constant_(head.box_scales, 1.3)
    return head


def expected_centerness(x, y, box):
    left, up, right, down = x - box[0], y - box[1], box[2] - x, box[3] - y
    return math.sqrt(min(left, right) / max(left, right) * min(up, down) / max(up, down))


def test_losses_agree_with_a_loop(head):
    pyramid, targets = make_pyramid(), make_targets((6, 0))
    result = head(pyramid, targets)
    logits, offsets, centres = (output.tolist() for output in head.read(pyramid))
    anchors, first = pyramid.anchors([3.0], [1.0]), 0
    total_positives, class_loss, box_loss, centerness_loss, total_centerness = 0, 0.0, 0.0, 0.0, 0.0
    for image, size in enumerate(SIZES):
        objects, num_positives = pixels(targets, image), 0
        assigned = atss_in_a_loop(anchors, anchors.inside(size).tolist(), objects, 9)
        assert result.candidates[image].assigned.tolist() == assigned
        for index, owner in enumerate(assigned):
            if owner == -2:
                continue
            label = int(targets.labels[first + owner]) if owner >= 0 else None
            for number in range(CLASSES):
                p = 1 / (1 + math.exp(-logits[image][index][number]))
                if number == label:
                    class_loss -= 0.25 * (1 - p) ** 2 * math.log(p)
                else:
                    class_loss -= 0.75 * p**2 * math.log(1 - p)
            if owner < 0:
                continue
            num_positives += 1
            x0, y0, x1, y1 = anchors.boxes[index].tolist()
            x, y, w, h = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
            dx, dy, dw, dh = offsets[image][index]
            target_centerness = expected_centerness(x, y, objects[owner])
            x, y, w, h = x + 0.1 * dx * w, y + 0.1 * dy * h, w * math.exp(0.2 * dw), h * math.exp(0.2 * dh)
            box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
            box_loss += target_centerness * (1 - giou(box, objects[owner]))
            p = 1 / (1 + math.exp(-centres[image][index][0]))
            centerness_loss -= target_centerness * math.log(p) + (1 - target_centerness) * math.log(1 - p)
            total_centerness += target_centerness
        total_positives += max(num_positives, 1)  # an image without objects counts as one
        first += targets.sizes[image]
    expected = {
        "class": class_loss / total_positives,
        "giou": 2 * box_loss / max(total_centerness, 1),
        "centerness": centerness_loss / total_positives,
    }
    assert_close({name: loss.item() for name, loss in result.losses.items()}, expected)


def test_candidates_have_the_features_of_their_cells(head):
    pyramid = make_pyramid()
    (_, second) = head(pyramid, make_targets()).candidates
    assert_close(second.features[8 * 12 + 7], pyramid.maps[1][1, :, 1, 1])
    assert_close(second.boxes, pyramid.anchors([3.0], [1.0]).boxes)


def test_initial_scores_are_low():
    head = ATSSHead(embed_dim=32, num_classes=CLASSES, num_feature_levels=2).double()
    logits, _, _ = head.read(make_pyramid())
    assert_close(logits.sigmoid().mean(), torch.tensor(0.01, dtype=torch.float64), rtol=0.3, atol=0)


def test_centerness_is_one_at_the_centre():
    box = torch.tensor([[0.0, 0, 8, 4]]).expand(3, -1)
    actual = centerness(torch.tensor([[4.0, 2], [2, 2], [2, 1]]), box)
    assert_close(actual, torch.tensor([1.0, math.sqrt(1 / 3), 1 / 3]))


def test_a_wrong_number_of_levels_raises_an_error(head):
    head = ATSSHead(embed_dim=32, num_classes=CLASSES, num_feature_levels=4).double()
    with pytest.raises(ValueError, match="num_feature_levels must be 2, not 4"):
        head(make_pyramid(), make_targets())
