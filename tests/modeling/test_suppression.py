"""Suppression of duplicate detections, compared with loops."""

import math

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import batched_nms, box_iou

from detrex_lite.modeling import NMS, Predictions, SoftmaxPostprocessor, SoftNMS, TopKPostprocessor
from detrex_lite.structures import box_cxcywh_to_xyxy


def random_candidates(batch=2, number=30, num_classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(batch, number, generator=generator, dtype=torch.float64)
    classes = torch.randint(num_classes, (batch, number), generator=generator)
    boxes = torch.rand(batch, number, 4, generator=generator, dtype=torch.float64) * 0.4 + 0.3
    return scores, classes, boxes


@pytest.mark.parametrize("number", [5, 100])
@pytest.mark.parametrize("class_agnostic", [False, True])
def test_nms_agrees_with_torchvision(number, class_agnostic):
    inputs = random_candidates()
    results = NMS(0.5, number, class_agnostic=class_agnostic)(*inputs)
    for (scores, classes, boxes), detections in zip(zip(*inputs, strict=True), zip(*results, strict=True), strict=True):
        groups = torch.zeros_like(classes) if class_agnostic else classes
        expected = batched_nms(box_cxcywh_to_xyxy(boxes), scores, groups, 0.5)[:number]
        is_detection = detections[0] >= 0
        assert 1 < len(expected) < len(scores)
        for actual_field, field in zip(detections, (scores, classes, boxes), strict=True):
            assert_close(actual_field[is_detection], field[expected])


def soft_nms_in_a_loop(scores, classes, boxes, factor):
    """(score, class) of all detections in descending order, computed class by class."""
    detections = []
    for number in classes.unique().tolist():
        remaining = [
            [score, box]
            for score, box in zip(scores[classes == number].tolist(), boxes[classes == number], strict=True)
        ]
        while remaining:
            remaining.sort(key=lambda score_and_box: -score_and_box[0])
            score, box = remaining.pop(0)
            detections.append((score, number))
            for candidate in remaining:
                pair = box_cxcywh_to_xyxy(torch.stack([box, candidate[1]]))
                candidate[0] *= factor(float(box_iou(pair[:1], pair[1:])))
    return sorted(detections, reverse=True)


@pytest.mark.parametrize(
    ("sigma", "factor"),
    [
        (None, lambda overlap: 1 - overlap if overlap >= 0.4 else 1.0),
        (0.5, lambda overlap: math.exp(-(overlap**2) / 0.5)),
    ],
)
def test_soft_nms_agrees_with_a_loop_over_classes(sigma, factor):
    inputs = random_candidates()
    scores, classes, boxes = SoftNMS(0.4, 12, sigma=sigma, min_score=0.2)(*inputs)
    for image in range(2):
        expected = [
            detection
            for detection in soft_nms_in_a_loop(*(part[image] for part in inputs), factor)
            if detection[0] >= 0.2
        ][:12]
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
def test_postprocessors_with_suppression_remove_duplicates(kind, suppression):
    # The first two queries are duplicates; the third has another class, so that it is kept.
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.21], [0.5, 0.5, 0.2, 0.2]]])
    logits = torch.tensor([[[3.0, -9, -9], [2.0, -9, -9], [-9.0, 1, -9]]])
    padding = torch.tensor([[False, False, False]])
    (detections,) = kind(suppression=suppression)(Predictions(logits, boxes, padding=padding), [(100, 100)])
    is_confident = detections.scores > 0.3
    assert detections.pred_classes[is_confident].tolist() == [0, 1]


def test_padding_queries_give_no_detections():
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2]]])
    padding = torch.tensor([[False, True]])
    for suppression in (NMS(), SoftNMS()):
        postprocessor = TopKPostprocessor(10, suppression=suppression)
        (detections,) = postprocessor(Predictions(torch.ones(1, 2, 1), boxes, padding=padding), [(10, 10)])
        assert len(detections) == 1
