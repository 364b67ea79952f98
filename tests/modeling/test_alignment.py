"""Losses by the alignment of scores and boxes, against loops over objects and queries."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.modeling import (
    AlignmentFocalLoss,
    AlignmentGIoULoss,
    BoxL1Cost,
    BoxL1Loss,
    FocalLoss,
    HungarianMatcher,
    SetCriterion,
)
from detrex_lite.structures import box_cxcywh_to_xyxy, box_iou, generalized_box_iou

from .helpers import random_predictions, random_targets

K = 4


@pytest.fixture
def dense():
    """Two sets of predictions, objects, and four queries for each object of each."""
    targets = random_targets([2, 0, 3], K)
    sets = {name: random_predictions(3, 30, K, seed=seed) for seed, name in enumerate(("_dense", "_0_dense"))}
    for number, predicted in enumerate(sets.values()):  # some queries lie at objects
        for image, first, size in ((0, 0, 2), (2, 2, 3)):
            near = targets.boxes[first : first + size].repeat(5, 1)
            noise = 1 + 0.1 * (number + 1) * torch.rand(len(near), 4, dtype=near.dtype)
            predicted.boxes[image, : len(near)] = near * noise
    matcher = HungarianMatcher({"bbox": BoxL1Cost()}, candidates=4)
    return sets, targets, matcher


def criterion_of(matcher, losses):
    weights = {"loss_class": 1.0, "loss_giou": 2.0, "loss_bbox": 5.0}
    plain = {"loss_class": FocalLoss(), "loss_bbox": BoxL1Loss()}
    used = {name: weights[name] for name in {**plain, **losses}}
    own = {"_dense": losses}
    return SetCriterion(matcher=matcher, losses=plain, weights=used, own_losses=own)


def aligned_by_a_loop(predicted, targets, match):
    """(image, query, object) -> normalised alignment."""
    pairs = list(zip(*(part.tolist() for part in match[:3]), strict=True))
    overlaps, metrics = {}, {}
    for image, query, number in pairs:
        corners = box_cxcywh_to_xyxy(torch.stack([predicted.boxes[image, query], targets.boxes[number]]))
        overlap = float(box_iou(corners[0], corners[1]))
        score = float(predicted.logits[image, query, targets.labels[number]].sigmoid())
        overlaps[image, query, number], metrics[image, query, number] = overlap, score * overlap**6
    aligned = {}
    for pair in pairs:
        same = [other for other in pairs if other[2] == pair[2]]
        largest = max(metrics[other] for other in same)
        aligned[pair] = metrics[pair] / (largest + 1e-7) * max(overlaps[other] for other in same)
    return aligned


def test_the_losses_are_those_of_the_loop(dense):
    sets, targets, matcher = dense
    losses = criterion_of(matcher, {"loss_class": AlignmentFocalLoss(), "loss_giou": AlignmentGIoULoss()})(
        {"": random_predictions(3, 30, K), **sets}, targets
    )
    assert set(losses) == {"loss_class", "loss_bbox"} | {f"loss_{k}{s}" for k in ("class", "giou") for s in sets}
    for name, match in matcher(sets, targets).items():
        aligned = aligned_by_a_loop(sets[name], targets, match)
        assert len(aligned) == 4 * 5
        total = max(sum(aligned.values()), 1.0)
        by_class = {
            (image, query, int(targets.labels[number])): value for (image, query, number), value in aligned.items()
        }
        expected = 0.0
        for image in range(3):
            for query in range(30):
                for label in range(K):
                    p = float(sets[name].logits[image, query, label].sigmoid())
                    a = by_class.get((image, query, label), 0.0)
                    expected += abs(a - p) ** 2 * -(a * math.log(p) + (1 - a) * math.log(1 - p))
        assert_close(float(losses[f"loss_class{name}"]), expected / total)
        expected = 0.0
        for (image, query, number), value in aligned.items():
            one, other = (box_cxcywh_to_xyxy(box) for box in (sets[name].boxes[image, query], targets.boxes[number]))
            expected += value * (1 - float(generalized_box_iou(one, other)))
        assert_close(float(losses[f"loss_giou{name}"]), 2 * expected / total)


def test_targets_have_no_gradients_and_the_weight_of_the_class_loss_has(dense):
    sets, targets, matcher = dense
    predicted = sets["_dense"]
    boxes, logits = predicted.boxes.clone().requires_grad_(), predicted.logits.clone().requires_grad_()
    moving = {"_dense": replace(predicted, boxes=boxes, logits=logits)}
    outputs = {"": random_predictions(3, 30, K), **moving}
    criterion = criterion_of(matcher, {"loss_class": AlignmentFocalLoss(), "loss_giou": AlignmentGIoULoss()})
    losses = criterion(outputs, targets)
    (found,) = torch.autograd.grad(losses["loss_class_dense"], logits, retain_graph=True)
    assert torch.autograd.grad(losses["loss_class_dense"], boxes, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(losses["loss_giou_dense"], logits, allow_unused=True) == (None,)
    # A query that is matched with nothing: the derivative of -p^2 log(1 - p).
    match = matcher(moving, targets)["_dense"]
    matched = set(zip(match.image.tolist(), match.query.tolist(), strict=True))
    image, query = next((1, number) for number in range(30) if (1, number) not in matched)
    p = logits.detach()[image, query].sigmoid()
    total = sum(aligned_by_a_loop(predicted, targets, match).values())
    expected = (2 * p * -torch.log(1 - p) + p**2 / (1 - p)) * p * (1 - p) / max(total, 1.0)
    assert_close(found[image, query], expected)


def test_without_objects_the_sums_count_as_one(dense):
    sets, _, matcher = dense
    criterion = criterion_of(matcher, {"loss_class": AlignmentFocalLoss(), "loss_giou": AlignmentGIoULoss()})
    losses = criterion({"": random_predictions(3, 30, K), **sets}, random_targets([0, 0, 0], K))
    p = sets["_dense"].logits.sigmoid()
    assert_close(losses["loss_class_dense"], (-(p**2) * torch.log(1 - p)).sum())
    assert losses["loss_giou_dense"] == 0


def test_losses_of_sets_that_are_not_there_are_refused(dense):
    _, targets, matcher = dense
    criterion = criterion_of(matcher, {"loss_class": AlignmentFocalLoss()})
    with pytest.raises(ValueError, match="own_losses has '_dense'"):
        criterion({"": random_predictions(3, 30, K)}, targets)


def test_own_losses_need_weights(dense):
    *_, matcher = dense
    own = {"_dense": {"loss_other": FocalLoss()}}
    with pytest.raises(ValueError, match="'loss_other' has no weight"):
        SetCriterion(matcher=matcher, losses={"loss_class": FocalLoss()}, weights={"loss_class": 1.0}, own_losses=own)
