"""Weights of several queries per object by the rank of their quality."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import box_iou, generalized_box_iou

from detrex_lite.modeling import (
    BoxL1Cost,
    BoxL1Loss,
    FocalCost,
    GIoUCost,
    GIoULoss,
    HungarianMatcher,
    IoUAwareBCELoss,
    Match,
    Predictions,
    RankWeights,
    SetCriterion,
    Targets,
)
from detrex_lite.structures import box_cxcywh_to_xyxy

from .helpers import random_predictions, random_targets

TAU, ALPHA = 1.5, 0.25


def with_boxes_near_objects(predictions, targets):
    """Move some predicted boxes close to objects of their image."""
    first = 0
    for image, size in enumerate(targets.sizes):
        for query in range(0, predictions.boxes.shape[1], 2) if size else ():
            shift = 0.05 * torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(query))
            predictions.boxes[image, query] = (targets.boxes[first + query // 2 % size] + shift).clamp(0.02, 0.98)
        first += size
    return predictions


def quality_of(predictions, targets, image, query, target):
    boxes = [box_cxcywh_to_xyxy(box)[None].detach() for box in (predictions.boxes[image, query], targets.boxes[target])]
    score = predictions.logits[image, query, targets.labels[target]].sigmoid().item()
    return max(score**ALPHA * box_iou(*boxes).item() ** (1 - ALPHA), 0.01)


def weights_in_a_loop(match, predictions, targets):
    """Weights in a loop: the rank counts pairs of the same object and group that are better, or equal and earlier."""
    size = predictions.logits.shape[1] // predictions.num_groups
    pairs = [
        (int(query) // size, int(target), quality_of(predictions, targets, int(image), int(query), int(target)))
        for image, query, target in zip(*match[:3], strict=True)
    ]
    weights = []
    for index, (group, target, quality) in enumerate(pairs):
        better = [
            other_index
            for other_index, (g, t, q) in enumerate(pairs)
            if (g, t) == (group, target) and (q > quality or (q == quality and other_index < index))
        ]
        weights.append(math.exp(-len(better) / TAU))
    return torch.tensor(weights, dtype=torch.float64)


@pytest.mark.parametrize("num_groups", [1, 2])
def test_weights_fall_with_the_rank_within_an_object(num_groups):
    targets = random_targets([3, 0, 2])
    predictions = replace(with_boxes_near_objects(random_predictions(3, 24), targets), num_groups=num_groups)
    matcher = HungarianMatcher({"bbox": BoxL1Cost()}, candidates=2, ranking=RankWeights(TAU, ALPHA))
    match = matcher({"": predictions}, targets)[""]
    assert len(match.query) == 2 * num_groups * 5
    assert_close(match.weight, weights_in_a_loop(match, predictions, targets))
    assert sorted(match.weight.tolist()) == pytest.approx(5 * num_groups * [math.exp(-1 / TAU)] + 5 * num_groups * [1])


def test_the_first_of_equal_pairs_ranks_higher():
    targets = Targets(torch.tensor([0]), torch.tensor([[0.2, 0.2, 0.1, 0.1]]), [1])
    predictions = Predictions(torch.zeros(1, 3, 2), torch.full((1, 3, 4), 0.8))  # no box overlaps the object
    match = Match(torch.tensor([0, 0, 0]), torch.tensor([2, 0, 1]), torch.tensor([0, 0, 0]))
    weight = RankWeights(1.0)(match, predictions, targets)
    assert_close(weight, torch.tensor([0.0, -1.0, -2.0]).exp())


def test_no_pairs_have_no_weights():
    empty = torch.zeros(0, dtype=torch.int64)
    weight = RankWeights(1.0)(Match(empty, empty, empty), random_predictions(2, 3), random_targets([0, 0]))
    assert weight.shape == (0,)


@pytest.mark.parametrize("tau", [0.0, -1.0])
def test_tau_must_be_positive(tau):
    with pytest.raises(ValueError, match=f"tau above 0, got {tau}"):
        RankWeights(tau)


def test_losses_of_ranked_candidates_follow_their_formulas():
    """Weights apply to box losses and class targets, but neither to denoising pairs nor to the divisor."""
    targets = random_targets([3, 2])
    outputs = {
        "": with_boxes_near_objects(random_predictions(2, 12, num_logits=4, seed=1), targets),
        "_0": with_boxes_near_objects(random_predictions(2, 12, num_logits=4, seed=2), targets),
        "_dn": with_boxes_near_objects(random_predictions(2, 12, num_logits=4, seed=3), targets),
    }
    denoising_match = Match(torch.tensor([0, 0, 1]), torch.tensor([0, 6, 4]), torch.tensor([0, 0, 3]))
    outputs["_dn"] = replace(outputs["_dn"], match=denoising_match, repeats=2)
    for predictions in outputs.values():
        predictions.logits.requires_grad_()
    costs = {"label": FocalCost(), "bbox": BoxL1Cost(), "giou": GIoUCost()}
    criterion = SetCriterion(
        matcher=HungarianMatcher(costs, candidates=2, final_candidates=1, ranking=RankWeights(TAU, ALPHA)),
        losses={"loss_class": IoUAwareBCELoss(ALPHA), "loss_bbox": BoxL1Loss(), "loss_giou": GIoULoss(eps=0.0)},
        weights={"loss_class": 1.0, "loss_bbox": 1.0, "loss_giou": 1.0},
    )
    matches, losses = criterion.match(outputs, targets), criterion(outputs, targets)
    assert {name: len(match.query) for name, match in matches.items()} == {"": 5, "_0": 10, "_dn": 3}
    for name, predictions in outputs.items():
        match, divisor = matches[name], 10 if name == "_dn" else 5
        weights = (
            torch.ones(3, dtype=torch.float64) if name == "_dn" else weights_in_a_loop(match, predictions, targets)
        )
        probability = predictions.logits.sigmoid()
        class_loss = -(probability**2) * (1 - probability).log()
        box_l1 = giou = 0.0
        for image, query, target, weight in zip(*match[:3], weights, strict=True):
            t = weight * quality_of(predictions, targets, image, query, target)
            p = probability[image, query, targets.labels[target]]
            class_loss[image, query, targets.labels[target]] = -t * p.log() - (1 - t) * (1 - p).log()
            boxes = predictions.boxes[image, query], targets.boxes[target]
            box_l1 += weight * (boxes[0] - boxes[1]).abs().sum()
            giou += weight * (1 - generalized_box_iou(*(box_cxcywh_to_xyxy(box)[None] for box in boxes)).item())
        assert_close(losses[f"loss_class{name}"], class_loss.sum() / divisor)
        assert_close(losses[f"loss_bbox{name}"], box_l1 / divisor)
        assert_close(losses[f"loss_giou{name}"], giou / divisor)
        (expected,) = torch.autograd.grad(class_loss.sum() / divisor, predictions.logits)
        (gradient,) = torch.autograd.grad(losses[f"loss_class{name}"], predictions.logits, retain_graph=True)
        assert_close(gradient, expected)  # gradients also pass through the weight of the background
