"""Suppression of detections, against loops."""

import math

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import batched_nms, box_iou

from detrex_lite.modeling import NMS, Predictions, SoftmaxPostprocessor, SoftNMS, TopKPostprocessor
from detrex_lite.structures import box_cxcywh_to_xyxy


def candidates(batch=2, number=30, num_classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(batch, number, generator=generator, dtype=torch.float64)
    classes = torch.randint(num_classes, (batch, number), generator=generator)
    boxes = torch.rand(batch, number, 4, generator=generator, dtype=torch.float64) * 0.4 + 0.3
    return scores, classes, boxes


@pytest.mark.parametrize("number", [5, 100])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_nms_keeps_what_torchvision_keeps(number, class_agnostic):
    given = candidates()
    results = NMS(0.5, number, class_agnostic=class_agnostic)(*given)
    for (scores, classes, boxes), found in zip(zip(*given, strict=True), zip(*results, strict=True), strict=True):
        groups = torch.zeros_like(classes) if class_agnostic else classes
        expected = batched_nms(box_cxcywh_to_xyxy(boxes), scores, groups, 0.5)[:number]
        is_detection = found[0] >= 0
        assert 1 < len(expected) < len(scores)
        for one, wanted in zip(found, (scores, classes, boxes), strict=True):
            assert_close(one[is_detection], wanted[expected])


def soft_nms_by_a_loop(scores, classes, boxes, factor):
    """Class by class, each to its end; (score, class) of all detections, best first."""
    found = []
    for number in classes.unique().tolist():
        mine = [
            [score, box]
            for score, box in zip(scores[classes == number].tolist(), boxes[classes == number], strict=True)
        ]
        while mine:
            mine.sort(key=lambda one: -one[0])
            score, box = mine.pop(0)
            found.append((score, number))
            for other in mine:
                pair = box_cxcywh_to_xyxy(torch.stack([box, other[1]]))
                other[0] *= factor(float(box_iou(pair[:1], pair[1:])))
    return sorted(found, reverse=True)


@pytest.mark.parametrize(
    ("sigma", "factor"),
    [
        (None, lambda overlap: 1 - overlap if overlap >= 0.4 else 1.0),
        (0.5, lambda overlap: math.exp(-(overlap**2) / 0.5)),
    ],
)
def test_soft_nms_is_the_loop_over_classes(sigma, factor):
    given = candidates()
    scores, classes, boxes = SoftNMS(0.4, 12, sigma=sigma, min_score=0.2)(*given)
    for image in range(2):
        expected = [one for one in soft_nms_by_a_loop(*(part[image] for part in given), factor) if one[0] >= 0.2][:12]
        is_detection = scores[image] >= 0
        assert len(expected) > 1
        assert_close(scores[image][is_detection], torch.tensor([score for score, _ in expected], dtype=torch.float64))
        assert classes[image][is_detection].tolist() == [number for _, number in expected]
    assert boxes.shape == (2, 12, 4)


def test_soft_nms_needs_a_positive_sigma():
    with pytest.raises(ValueError, match="sigma=0"):
        SoftNMS(sigma=0.0)


@pytest.mark.parametrize("suppression", [NMS(0.5, 10), SoftNMS(0.5, 10)])
@pytest.mark.parametrize("kind", [TopKPostprocessor, SoftmaxPostprocessor])
def test_every_postprocessor_takes_it_and_no_repetition_is_left(kind, suppression):
    # Two queries say the same; another class at the same place is no repetition.
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.21], [0.5, 0.5, 0.2, 0.2]]])
    logits = torch.tensor([[[3.0, -9, -9], [2.0, -9, -9], [-9.0, 1, -9]]])
    padding = torch.tensor([[False, False, False]])
    (found,) = kind(suppression=suppression)(Predictions(logits, boxes, padding=padding), [(100, 100)])
    sure = found.scores > 0.3
    assert found.pred_classes[sure].tolist() == [0, 1]


def test_queries_that_fill_up_the_batch_are_no_detections():
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2]]])
    padding = torch.tensor([[False, True]])
    for suppression in (NMS(), SoftNMS()):
        postprocessor = TopKPostprocessor(10, suppression=suppression)
        (found,) = postprocessor(Predictions(torch.ones(1, 2, 1), boxes, padding=padding), [(10, 10)])
        assert len(found) == 1
