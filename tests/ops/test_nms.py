"""Non-maximum suppression as a mask, compared with a loop over pairs."""

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


def nms_in_a_loop(boxes, scores, threshold, groups):
    """The boxes of an image that no better kept box overlaps by more than the threshold."""
    kept = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        kept_of_group = [kept_index for kept_index in kept if groups[kept_index] == groups[index]]
        if all(box_iou(boxes[[kept_index]], boxes[[index]]) <= threshold for kept_index in kept_of_group):
            kept.append(index)
    return sorted(kept)


@pytest.mark.parametrize("grouped", [False, True])
def test_nms_mask_agrees_with_a_loop_over_pairs(grouped):
    boxes, scores, groups = random_boxes()
    groups = groups if grouped else torch.zeros_like(groups)
    is_kept = nms_mask(boxes, scores, 0.3, groups if grouped else None)
    assert is_kept.shape == scores.shape
    for image in range(len(boxes)):
        expected = nms_in_a_loop(boxes[image], scores[image], 0.3, groups[image])
        assert 1 < len(expected) < boxes.shape[1]
        assert is_kept[image].nonzero().flatten().tolist() == expected


def test_the_first_of_equal_scores_is_kept():
    boxes = torch.tensor([[[0.0, 0, 1, 1], [0.0, 0, 1, 1], [0.0, 0, 0.5, 0.5]]])
    assert nms_mask(boxes, torch.ones(1, 3), 0.5).tolist() == [[True, False, True]]


def test_exported_graphs_accept_any_number_of_images_and_boxes():
    class Graph(torch.nn.Module):
        def forward(self, boxes, scores, groups):
            return nms_mask(boxes, scores, 0.3, groups)

    example, other_inputs = random_boxes(2, 30), [random_boxes(3, 40), random_boxes(1, 17, seed=1)]
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(Graph(), example, dynamic_shapes=(dynamic,) * 3, strict=False).module()
    traced = torch.jit.trace(Graph(), example, check_trace=False)
    for inputs in other_inputs:
        expected = Graph()(*inputs)
        assert torch.equal(exported(*inputs), expected)
        assert torch.equal(traced(*inputs), expected)


def test_nms_mask_compiles_to_one_graph():
    sample = random_boxes()
    compiled = torch.compile(
        lambda *inputs: nms_mask(*inputs[:2], 0.3, inputs[2]) & (inputs[1] > 0.2), backend="eager", fullgraph=True
    )
    assert torch.equal(compiled(*sample), nms_mask(*sample[:2], 0.3, sample[2]) & (sample[1] > 0.2))


def test_no_boxes_give_an_empty_mask():
    assert nms_mask(torch.zeros(2, 0, 4), torch.zeros(2, 0), 0.5).shape == (2, 0)
