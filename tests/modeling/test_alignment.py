"""Losses weighted by the alignment of scores and boxes, compared with loops over objects and queries."""

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
    """Two sets of predictions, their targets, and a matcher that assigns four queries to each object."""
    targets = random_targets([2, 0, 3], K)
    sets = {name: random_predictions(3, 30, K, seed=seed) for seed, name in enumerate(("_dense", "_0_dense"))}
    for number, predictions in enumerate(sets.values()):  # some queries are close to objects
        for image, first, size in ((0, 0, 2), (2, 2, 3)):
            near = targets.boxes[first : first + size].repeat(5, 1)
            noise = 1 + 0.1 * (number + 1) * torch.rand(len(near), 4, dtype=near.dtype)
            predictions.boxes[image, : len(near)] = near * noise
    matcher = HungarianMatcher({"bbox": BoxL1Cost()}, candidates=4)
    return sets, targets, matcher


def criterion_of(matcher, losses):
    weights = {"loss_class": 1.0, "loss_giou": 2.0, "loss_bbox": 5.0}
    base_losses = {"loss_class": FocalLoss(), "loss_bbox": BoxL1Loss()}
    used_weights = {name: weights[name] for name in {**base_losses, **losses}}
    own_losses = {"_dense": losses}
    return SetCriterion(matcher=matcher, losses=base_losses, weights=used_weights, own_losses=own_losses)


def alignment_in_a_loop(predictions, targets, match):
    """(image, query, object) -> normalised alignment."""
    pairs = list(zip(*(part.tolist() for part in match[:3]), strict=True))
    overlaps, metrics = {}, {}
    for image, query, number in pairs:
        corners = box_cxcywh_to_xyxy(torch.stack([predictions.boxes[image, query], targets.boxes[number]]))
        overlap = float(box_iou(corners[0], corners[1]))
        score = float(predictions.logits[image, query, targets.labels[number]].sigmoid())
        overlaps[image, query, number], metrics[image, query, number] = overlap, score * overlap**6
    alignment = {}
    for pair in pairs:
        same_object = [candidate for candidate in pairs if candidate[2] == pair[2]]
        largest = max(metrics[candidate] for candidate in same_object)
        alignment[pair] = metrics[pair] / (largest + 1e-7) * max(overlaps[candidate] for candidate in same_object)
    return alignment


def test_alignment_losses_agree_with_a_loop(dense):
    sets, targets, matcher = dense
    losses = criterion_of(matcher, {"loss_class": AlignmentFocalLoss(), "loss_giou": AlignmentGIoULoss()})(
        {"": random_predictions(3, 30, K), **sets}, targets
    )
    assert set(losses) == {"loss_class", "loss_bbox"} | {f"loss_{k}{s}" for k in ("class", "giou") for s in sets}
    for name, match in matcher(sets, targets).items():
        alignment = alignment_in_a_loop(sets[name], targets, match)
        assert len(alignment) == 4 * 5
        total = max(sum(alignment.values()), 1.0)
        by_class = {
            (image, query, int(targets.labels[number])): value for (image, query, number), value in alignment.items()
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
        for (image, query, number), value in alignment.items():
            predicted_box, target_box = (
                box_cxcywh_to_xyxy(box) for box in (sets[name].boxes[image, query], targets.boxes[number])
            )
            expected += value * (1 - float(generalized_box_iou(predicted_box, target_box)))
        assert_close(float(losses[f"loss_giou{name}"]), 2 * expected / total)


def test_alignment_targets_get_no_gradients_but_class_loss_weights_do(dense):
    sets, targets, matcher = dense
    predictions = sets["_dense"]
    boxes, logits = predictions.boxes.clone().requires_grad_(), predictions.logits.clone().requires_grad_()
    with_gradients = {"_dense": replace(predictions, boxes=boxes, logits=logits)}
    outputs = {"": random_predictions(3, 30, K), **with_gradients}
    criterion = criterion_of(matcher, {"loss_class": AlignmentFocalLoss(), "loss_giou": AlignmentGIoULoss()})
    losses = criterion(outputs, targets)
    (gradient,) = torch.autograd.grad(losses["loss_class_dense"], logits, retain_graph=True)
    assert torch.autograd.grad(losses["loss_class_dense"], boxes, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(losses["loss_giou_dense"], logits, allow_unused=True) == (None,)
    # The derivative of -p^2 log(1 - p), of a query without a match.
    match = matcher(with_gradients, targets)["_dense"]
    matched = set(zip(match.image.tolist(), match.query.tolist(), strict=True))
    image, query = next((1, number) for number in range(30) if (1, number) not in matched)
    p = logits.detach()[image, query].sigmoid()
    total = sum(alignment_in_a_loop(predictions, targets, match).values())
    expected = (2 * p * -torch.log(1 - p) + p**2 / (1 - p)) * p * (1 - p) / max(total, 1.0)
    assert_close(gradient[image, query], expected)


def test_normalisers_are_one_without_objects(dense):
    sets, _, matcher = dense
    criterion = criterion_of(matcher, {"loss_class": AlignmentFocalLoss(), "loss_giou": AlignmentGIoULoss()})
    losses = criterion({"": random_predictions(3, 30, K), **sets}, random_targets([0, 0, 0], K))
    p = sets["_dense"].logits.sigmoid()
    assert_close(losses["loss_class_dense"], (-(p**2) * torch.log(1 - p)).sum())
    assert losses["loss_giou_dense"] == 0


def test_own_losses_of_missing_sets_raise_an_error(dense):
    _, targets, matcher = dense
    criterion = criterion_of(matcher, {"loss_class": AlignmentFocalLoss()})
    with pytest.raises(ValueError, match="own_losses has '_dense'"):
        criterion({"": random_predictions(3, 30, K)}, targets)


def test_own_losses_need_weights(dense):
    *_, matcher = dense
    own_losses = {"_dense": {"loss_other": FocalLoss()}}
    with pytest.raises(ValueError, match="'loss_other' has no weight"):
        SetCriterion(
            matcher=matcher, losses={"loss_class": FocalLoss()}, weights={"loss_class": 1.0}, own_losses=own_losses
        )
