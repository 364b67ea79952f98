import statistics

import pytest
import torch

from detrex_lite.modeling.collaborative import BACKGROUND, NEITHER, assign_atss, assign_by_overlap, draw, sample
from detrex_lite.structures import pairwise_iou

from .pyramids import SIZES, iou, make_pyramid, make_targets, pixels


def atss_in_a_loop(anchors, inside, objects, num_candidates):
    """Algorithm 1 of the paper, number by number."""
    boxes, owners = anchors.boxes.tolist(), {}
    centres = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in boxes]
    for number, (x0, y0, x1, y1) in enumerate(objects):
        candidates, first = [], 0
        for size in anchors.sizes:
            level = [index for index in range(first, first + size) if inside[index]]
            level.sort(
                key=lambda index: (centres[index][0] - (x0 + x1) / 2) ** 2 + (centres[index][1] - (y0 + y1) / 2) ** 2
            )
            candidates += level[:num_candidates]
            first += size
        overlaps = [iou(objects[number], boxes[index]) for index in candidates]
        threshold = statistics.mean(overlaps) + statistics.stdev(overlaps)
        for index, overlap in zip(candidates, overlaps, strict=True):
            x, y = centres[index]
            is_central = min(x - x0, y - y0, x1 - x, y1 - y) > 0.01
            if overlap >= threshold and is_central and overlap > owners.get(index, (0, -1))[0]:
                owners[index] = (overlap, number)
    return [owners[i][1] if i in owners else BACKGROUND if inside[i] else NEITHER for i in range(len(boxes))]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_candidates", [3, 9])
def test_atss_agrees_with_a_loop(seed, num_candidates):
    pyramid, targets = make_pyramid(), make_targets((6, 5), seed)
    anchors = pyramid.anchors([3.0], [1.0])
    for image, boxes in enumerate(pyramid.objects(targets)):
        inside = anchors.inside(SIZES[image])
        assigned = assign_atss(anchors, inside, boxes, num_candidates).tolist()
        assert assigned == atss_in_a_loop(anchors, inside.tolist(), pixels(targets, image), num_candidates)
        assert max(assigned) >= 0


def test_atss_without_objects_assigns_no_anchors():
    anchors = make_pyramid().anchors([3.0], [1.0])
    inside = anchors.inside((40, 40))
    assigned = assign_atss(anchors, inside, torch.zeros(0, 4, dtype=torch.float64))
    assert set(assigned[inside].tolist()) == {BACKGROUND}
    assert set(assigned[~inside].tolist()) == {NEITHER}


def test_an_anchor_of_two_objects_belongs_to_the_object_it_overlaps_more():
    anchors = make_pyramid().anchors([2.0], [1.0])
    objects = torch.tensor([[30.0, 20, 52, 44], [31.0, 23, 49, 41]], dtype=torch.float64)
    assigned = assign_atss(anchors, torch.ones(len(anchors.boxes), dtype=torch.bool), objects)
    overlaps = pairwise_iou(objects, anchors.boxes)
    assigned_alone = [assign_atss(anchors, assigned > -9, objects[number : number + 1]) for number in (0, 1)]
    shared = (assigned_alone[0] == 0) & (assigned_alone[1] == 0)
    assert shared.any()
    assert (assigned[shared] == overlaps[:, shared].argmax(0)).all()


def assign_by_overlap_in_a_loop(overlaps, positive, negative, best_from):
    objects, boxes = overlaps.shape
    assignment = []
    for box in range(boxes):
        column = overlaps[:, box].tolist()
        owner = column.index(max(column))
        assigned = owner if max(column) >= positive else BACKGROUND if max(column) < negative else NEITHER
        for number in range(objects):
            best = max(overlaps[number].tolist())
            if best_from is not None and best >= best_from and column[number] == best:
                assigned = number
        assignment.append(assigned)
    return assignment


@pytest.mark.parametrize("best_from", [None, 0.3])
def test_assignment_by_overlap_agrees_with_a_loop(best_from):
    overlaps = torch.rand(5, 60, generator=torch.Generator().manual_seed(0))
    overlaps[3] *= 0.25  # below 0.3 everywhere
    overlaps[4] *= 0.6
    overlaps[4, 7] = overlaps[4, 9] = overlaps[4].max()  # two anchors overlap the object equally well
    assigned = assign_by_overlap(overlaps, 0.7, 0.3, best_from).tolist()
    assert assigned == assign_by_overlap_in_a_loop(overlaps, 0.7, 0.3, best_from)
    assert (assigned[7] == 4) == (best_from is not None)
    assert 3 not in assigned


def test_all_boxes_are_background_without_objects():
    assert assign_by_overlap(torch.zeros(0, 3), 0.5, 0.5).tolist() == [BACKGROUND] * 3


def test_a_sample_has_the_requested_fraction_of_positives():
    assigned = torch.tensor([NEITHER] * 5 + [0, 1, 2, 3] * 10 + [BACKGROUND] * 50)
    positive, negative = sample(assigned, 40, 0.25)
    assert (len(positive), len(negative)) == (10, 30)
    assert (assigned[positive] >= 0).all()
    assert (assigned[negative] == BACKGROUND).all()
    assert len(set(positive.tolist())) == 10
    positive, negative = sample(assigned[:10], 40, 0.25)
    assert (positive.tolist(), negative.tolist()) == ([5, 6, 7, 8, 9], [])


def test_draw_keeps_all_candidates_in_order_below_the_limit():
    assert draw(torch.tensor([4, 2, 9]), 3).tolist() == [4, 2, 9]
    assert len(draw(torch.arange(100), 7).unique()) == 7
