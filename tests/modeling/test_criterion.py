from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import generalized_box_iou_loss
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

from detrex_lite.modeling import (
    BoxL1Cost,
    BoxL1Loss,
    CrossEntropyCost,
    CrossEntropyLoss,
    FocalLoss,
    GIoUCost,
    GIoULoss,
    HungarianMatcher,
    Match,
    Predictions,
    SetCriterion,
    name_layers,
)
from detrex_lite.modeling.criterion import Comparison, sigmoid_focal_loss
from detrex_lite.structures import box_cxcywh_to_xyxy

from .helpers import random_predictions, random_targets

LOSSES = {"loss_class": CrossEntropyLoss(eos_coef=0.1), "loss_bbox": BoxL1Loss(), "loss_giou": GIoULoss()}
WEIGHTS = {"loss_class": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}


@pytest.fixture
def criterion():
    matcher = HungarianMatcher({"class": CrossEntropyCost(), "bbox": BoxL1Cost(), "giou": GIoUCost()})
    return SetCriterion(matcher=matcher, losses=LOSSES, weights=WEIGHTS)


def test_losses_by_their_formulas(criterion):
    predictions, targets = random_predictions(2, 6), random_targets([3, 1])
    (match,) = criterion.match({"": predictions}, targets)
    got = criterion({"": predictions}, targets)
    labels = torch.full((2, 6), 4)
    box_l1, giou = 0.0, 0.0
    for image, query, target in zip(*match, strict=True):
        labels[image, query] = targets.labels[target]
        predicted, wanted = predictions.boxes[image, query], targets.boxes[target]
        box_l1 += (predicted - wanted).abs().sum()
        giou += generalized_box_iou_loss(box_cxcywh_to_xyxy(predicted), box_cxcywh_to_xyxy(wanted), eps=1e-6)
    log_likelihood = predictions.logits.log_softmax(-1).gather(2, labels[..., None])[..., 0]
    weight = torch.where(labels == 4, 0.1, 1.0).double()
    assert_close(got["loss_class"], -(weight * log_likelihood).sum() / weight.sum())
    assert_close(got["loss_bbox"], 5.0 * box_l1 / 4)
    assert_close(got["loss_giou"], 2.0 * giou / 4, rtol=1e-6, atol=1e-6)


def test_focal_loss_by_torchvision():
    logits = torch.randn(2, 3, 4, dtype=torch.float64)
    wanted = (torch.rand(2, 3, 4) < 0.3).double()
    assert_close(sigmoid_focal_loss(logits, wanted, 0.25, 2.0), torchvision_focal_loss(logits, wanted, 0.25, 2.0))
    assert_close(sigmoid_focal_loss(logits, wanted, -1, 1.5), torchvision_focal_loss(logits, wanted, -1, 1.5))
    predictions, targets = random_predictions(2, 3, num_logits=4), random_targets([2, 1])
    (match,) = HungarianMatcher({"bbox": BoxL1Cost()})([predictions], targets)
    one_hot = torch.zeros_like(predictions.logits)
    for image, query, target in zip(*match, strict=True):
        one_hot[image, query] = F.one_hot(targets.labels[target], 4).double()
    want = torchvision_focal_loss(predictions.logits, one_hot, 0.25, 2.0, reduction="sum") / 3
    comparison = Comparison.of([predictions], [match], targets, torch.tensor([3.0]))
    assert_close(FocalLoss()(comparison), want[None])


def test_every_layer_is_named_and_weighted(criterion):
    layers = [random_predictions(2, 6, seed=seed) for seed in range(3)]
    logits, boxes = torch.stack([one.logits for one in layers]), torch.stack([one.boxes for one in layers])
    outputs = name_layers(logits, boxes)
    assert list(outputs) == ["", "_0", "_1"]
    targets = random_targets([2, 2])
    got = criterion(outputs, targets)
    assert set(got) == {name + suffix for name in WEIGHTS for suffix in ("", "_0", "_1")}
    for suffix, layer in {"": layers[2], "_0": layers[0], "_1": layers[1]}.items():
        alone = criterion({"": layer}, targets)
        for name in WEIGHTS:
            assert_close(got[name + suffix], alone[name])
    assert list(name_layers(layers[0].logits[None], layers[0].boxes[None])) == [""]
    assert list(
        name_layers(*(torch.stack(x) for x in zip(*(layer[:2] for layer in layers), strict=True)), aux_loss=False)
    ) == [""]


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), FocalLoss()], ids=["cross-entropy", "focal"])
def test_sets_of_all_sizes_are_compared_as_if_each_were_alone(criterion, loss):
    criterion = SetCriterion(
        matcher=criterion.matcher, losses={**LOSSES, "loss_class": loss}, weights={**WEIGHTS, "loss_class": 1.0}
    )
    targets = random_targets([3, 1])
    outputs = {
        "": random_predictions(2, 6),
        "_few_queries": random_predictions(2, 2, seed=2),  # one object is left out
        "_no_query": random_predictions(2, 0, seed=3),
        "_more_classes": random_predictions(2, 6, num_logits=9, seed=4),
        "_one_image": random_predictions(1, 5, seed=5)._replace(targets=random_targets([4], seed=5)),
        "_dn": random_predictions(2, 4, seed=6)._replace(
            match=Match(torch.tensor([0, 1]), torch.tensor([3, 0]), torch.tensor([1, 3])), repeats=3
        ),
    }
    got = criterion(outputs, targets)
    assert list(got) == [name + suffix for suffix in outputs for name in LOSSES]
    for suffix, one in outputs.items():
        for name, alone in criterion({"": one}, targets).items():
            assert_close(got[name + suffix], alone)
            assert torch.isfinite(alone)


def test_sets_cost_next_to_no_operators(criterion):
    class Count(TorchDispatchMode):
        operators = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.operators += not func.is_view
            return func(*args, **(kwargs or {}))

    def operators(sets):
        outputs = {f"_{n}": random_predictions(2, 6, seed=n) for n in range(sets)}
        for one in outputs.values():
            one.logits.requires_grad_()
            one.boxes.requires_grad_()
        with Count() as count:
            sum(criterion(outputs, random_targets([3, 1])).values()).backward()
        return count.operators

    assert operators(12) - operators(2) < 10 * 20  # in a loop over sets each would have about 150


def test_a_set_is_compared_with_targets_of_its_own(criterion):
    predictions, targets = random_predictions(2, 6), random_targets([3, 1])
    proposals = predictions._replace(targets=targets.class_agnostic())
    got = criterion({"": predictions, "_enc": proposals}, targets)
    alone = criterion({"": predictions}, targets.class_agnostic())
    for name in WEIGHTS:
        assert_close(got[f"{name}_enc"], alone[name])
    assert got["loss_class_enc"] != got["loss_class"]
    twice = replace(targets, **{f: torch.cat([getattr(targets, f)] * 2) for f in ("labels", "boxes")}, sizes=[4, 4])
    other = criterion({"": predictions, "_other": predictions._replace(targets=twice)}, targets)
    assert_close(other["loss_bbox_other"], criterion({"": predictions}, twice)["loss_bbox"])


def test_a_set_with_a_known_match_is_compared_by_it(criterion):
    predictions, targets = random_predictions(2, 6), random_targets([3, 1])
    match = Match(torch.tensor([0, 0, 1, 1]), torch.tensor([4, 1, 5, 0]), torch.tensor([2, 0, 3, 3]))
    known = predictions._replace(match=match, repeats=2)
    got = criterion({"": predictions, "_dn": known}, targets)
    box_l1 = (predictions.boxes[match.image, match.query] - targets.boxes[match.target]).abs().sum()
    assert_close(got["loss_bbox_dn"], 5.0 * box_l1 / (4 * 2))
    comparison = Comparison.of([predictions], [match], targets, torch.tensor([8.0]))
    assert_close(got["loss_class_dn"][None], LOSSES["loss_class"](comparison))
    for name, loss in criterion({"": predictions}, targets).items():
        assert_close(got[name], loss)


@pytest.mark.parametrize("sizes", [[0, 0], [3, 0]])
def test_images_without_objects_train(criterion, sizes):
    predictions = Predictions(*(x.requires_grad_() for x in random_predictions(2, 6)[:2]))
    losses = criterion({"": predictions}, random_targets(sizes))
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(predictions.logits.grad).all()
    assert torch.isfinite(predictions.boxes.grad).all()
    if not any(sizes):
        assert losses["loss_bbox"] == 0
        assert losses["loss_class"] > 0


def test_gradients(criterion):
    predictions, targets = random_predictions(1, 3), random_targets([2])

    def total(logits, boxes):
        return sum(criterion({"": Predictions(logits, boxes)}, targets).values())

    inputs = tuple(x.clone().requires_grad_() for x in predictions[:2])
    assert torch.autograd.gradcheck(total, inputs)


def test_half_precision_predictions_are_compared_in_float32(criterion):
    predictions, targets = (
        random_predictions(2, 6, dtype=torch.float32),
        random_targets([2, 1], dtype=torch.float32),
    )
    half = Predictions(*(x.bfloat16() for x in predictions[:2]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = criterion({"": half}, targets)
    want = criterion({"": Predictions(*(x.float() for x in half[:2]))}, targets)
    for name, loss in got.items():
        assert loss.dtype == torch.float32
        assert_close(loss, want[name], rtol=0, atol=0)


def test_a_loss_gives_a_value_for_each_set(criterion):
    criterion.losses["loss_bbox"] = lambda comparison: comparison.boxes.sum()
    outputs = {"": random_predictions(2, 6), "_0": random_predictions(2, 6, seed=2)}
    with pytest.raises(
        ValueError, match=r"loss_bbox gave a tensor of shape \(\) for 2 sets of predictions; a loss gives"
    ):
        criterion(outputs, random_targets([3, 1]))


def test_weights_and_losses_must_agree():
    matcher = HungarianMatcher({"bbox": BoxL1Cost()})
    with pytest.raises(ValueError, match="loss 'loss_bbox' has no weight; did you mean 'los_bbox'"):
        SetCriterion(matcher=matcher, losses={"loss_bbox": BoxL1Loss()}, weights={"los_bbox": 1.0})
    with pytest.raises(ValueError, match="weight 'loss_mask' belongs to no loss"):
        SetCriterion(matcher=matcher, losses={"loss_bbox": BoxL1Loss()}, weights={"loss_bbox": 1, "loss_mask": 1})
