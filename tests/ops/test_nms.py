"""Non-maximum suppression as a mask, against a loop over pairs."""

import pytest
import torch
from torchvision.ops import box_iou

from detrex_lite.ops.nms import nms_mask


def random_boxes(batch=3, number=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(batch, number, 2, generator=generator)
    side = 0.1 + 0.4 * torch.rand(batch, number, 2, generator=generator)
    boxes = torch.cat([corner, corner + side], dim=-1)
    scores = torch.rand(batch, number, generator=generator)
    return boxes, scores, torch.randint(3, (batch, number), generator=generator)


def left_by_a_loop(boxes, scores, threshold, groups):
    """Of one image: a box stays unless a better one that stayed overlaps it by more."""
    left = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        others = [one for one in left if groups[one] == groups[index]]
        if all(box_iou(boxes[[one]], boxes[[index]]) <= threshold for one in others):
            left.append(index)
    return sorted(left)


@pytest.mark.parametrize("grouped", [False, True])
def test_it_is_the_loop_over_pairs(grouped):
    boxes, scores, groups = random_boxes()
    groups = groups if grouped else torch.zeros_like(groups)
    left = nms_mask(boxes, scores, 0.3, groups if grouped else None)
    assert left.shape == scores.shape
    for image in range(len(boxes)):
        expected = left_by_a_loop(boxes[image], scores[image], 0.3, groups[image])
        assert 1 < len(expected) < boxes.shape[1]
        assert left[image].nonzero().flatten().tolist() == expected


def test_of_equal_scores_the_first_is_left():
    boxes = torch.tensor([[[0.0, 0, 1, 1], [0.0, 0, 1, 1], [0.0, 0, 0.5, 0.5]]])
    assert nms_mask(boxes, torch.ones(1, 3), 0.5).tolist() == [[True, False, True]]


def test_graphs_take_any_number_of_images_and_boxes():
    class Graph(torch.nn.Module):
        def forward(self, boxes, scores, groups):
            return nms_mask(boxes, scores, 0.3, groups)

    example, others = random_boxes(2, 30), [random_boxes(3, 40), random_boxes(1, 17, seed=1)]
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(Graph(), example, dynamic_shapes=(dynamic,) * 3, strict=False).module()
    traced = torch.jit.trace(Graph(), example, check_trace=False)
    for given in others:
        expected = Graph()(*given)
        assert torch.equal(exported(*given), expected)
        assert torch.equal(traced(*given), expected)


def test_it_compiles_to_one_graph():
    given = random_boxes()
    compiled = torch.compile(
        lambda *one: nms_mask(*one[:2], 0.3, one[2]) & (one[1] > 0.2), backend="eager", fullgraph=True
    )
    assert torch.equal(compiled(*given), nms_mask(*given[:2], 0.3, given[2]) & (given[1] > 0.2))


def test_no_boxes():
    assert nms_mask(torch.zeros(2, 0, 4), torch.zeros(2, 0), 0.5).shape == (2, 0)
