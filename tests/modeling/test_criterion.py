import copy
import itertools
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import box_iou, generalized_box_iou_loss
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

from detrex_lite.modeling import (
    BoxL1Cost,
    BoxL1Loss,
    Comparison,
    CrossEntropyCost,
    CrossEntropyLoss,
    DecoupledDistillationFocalLoss,
    EdgeBins,
    FineGrainedLocalizationLoss,
    FocalLoss,
    GIoUCost,
    GIoULoss,
    HungarianMatcher,
    IoUAwareBCELoss,
    LayerOutput,
    Match,
    MatchabilityAwareLoss,
    MatchUnion,
    Mean,
    PositionSupervisedLoss,
    Predictions,
    QualityFocalLoss,
    SetCriterion,
    Targets,
    VarifocalLoss,
    name_layers,
    name_of_layer,
    sigmoid_focal_loss,
)
from detrex_lite.modeling.criterion import family
from detrex_lite.structures import box_cxcywh_to_xyxy

from .helpers import random_predictions, random_targets

LOSSES = {"loss_class": CrossEntropyLoss(eos_coef=0.1), "loss_bbox": BoxL1Loss(), "loss_giou": GIoULoss()}
WEIGHTS = {"loss_class": 1.0, "loss_bbox": 5.0, "loss_giou": 2.0}
KNOWN = Match(torch.tensor([0, 0, 1, 1]), torch.tensor([4, 1, 5, 0]), torch.tensor([2, 0, 3, 3]))


def build(losses=LOSSES, weights=WEIGHTS, **arguments):
    matcher = HungarianMatcher({"class": CrossEntropyCost(), "bbox": BoxL1Cost(), "giou": GIoUCost()})
    return SetCriterion(matcher=matcher, losses=losses, weights=weights, **arguments)


@pytest.fixture
def criterion():
    return build()


def criterion_of(loss, **arguments):
    """A criterion of one loss with weight 1."""
    return build({"loss": loss}, {"loss": 1.0}, **arguments)


def output_of(predictions):
    return LayerOutput(predictions.logits, predictions.boxes, predictions.extra)


# Formulas


def test_losses_follow_their_formulas(criterion):
    predictions, targets = random_predictions(2, 6), random_targets([3, 1])
    match = criterion.match({"": predictions}, targets)[""]
    losses = criterion({"": predictions}, targets)
    labels = torch.full((2, 6), 4)
    box_l1, giou = 0.0, 0.0
    for image, query, target in zip(*match[:3], strict=True):
        labels[image, query] = targets.labels[target]
        predicted_box, target_box = predictions.boxes[image, query], targets.boxes[target]
        box_l1 += (predicted_box - target_box).abs().sum()
        giou += generalized_box_iou_loss(box_cxcywh_to_xyxy(predicted_box), box_cxcywh_to_xyxy(target_box), eps=1e-6)
    log_likelihood = predictions.logits.log_softmax(-1).gather(2, labels[..., None])[..., 0]
    weight = torch.where(labels == 4, 0.1, 1.0).double()
    assert_close(losses["loss_class"], -(weight * log_likelihood).sum() / weight.sum())
    assert_close(losses["loss_bbox"], 5.0 * box_l1 / 4)
    assert_close(losses["loss_giou"], 2.0 * giou / 4, rtol=1e-6, atol=1e-6)


def test_focal_loss_agrees_with_torchvision():
    logits = torch.randn(2, 3, 4, dtype=torch.float64)
    class_targets = (torch.rand(2, 3, 4) < 0.3).double()
    assert_close(
        sigmoid_focal_loss(logits, class_targets, 0.25, 2.0), torchvision_focal_loss(logits, class_targets, 0.25, 2.0)
    )
    assert_close(
        sigmoid_focal_loss(logits, class_targets, -1, 1.5), torchvision_focal_loss(logits, class_targets, -1, 1.5)
    )
    predictions, targets = random_predictions(2, 3, num_logits=4), random_targets([2, 1])
    match = HungarianMatcher({"bbox": BoxL1Cost()})({"": predictions}, targets)
    one_hot = torch.zeros_like(predictions.logits)
    for image, query, target in zip(*match[""][:3], strict=True):
        one_hot[image, query] = F.one_hot(targets.labels[target], 4).double()
    expected = torchvision_focal_loss(predictions.logits, one_hot, 0.25, 2.0)
    comparison = Comparison.of({"": predictions}, match, targets)
    assert_close(FocalLoss()(comparison), expected.sum(-1))
    assert_close(
        criterion_of(FocalLoss())({"": replace(predictions, match=match[""])}, targets)["loss"], expected.sum() / 3
    )


def test_varifocal_loss_follows_its_formula():
    targets = random_targets([3, 1])
    predictions = replace(random_predictions(2, 6, num_logits=4), match=KNOWN)
    predictions.boxes[0, 4] = targets.boxes[2] + 0.02  # random boxes may not overlap
    predictions.logits.requires_grad_()
    predictions.boxes.requires_grad_()
    actual = criterion_of(VarifocalLoss(alpha=0.6, gamma=1.5))({"": predictions}, targets)["loss"]
    overlap = torch.zeros(2, 6, 4, dtype=torch.float64)
    positive = torch.zeros(2, 6, 4, dtype=torch.bool)
    for image, query, target in zip(*KNOWN[:3], strict=True):
        index = image, query, targets.labels[target]
        predicted_box, target_box = (
            box_cxcywh_to_xyxy(x)[None] for x in (predictions.boxes[image, query], targets.boxes[target])
        )
        overlap[index], positive[index] = box_iou(predicted_box, target_box)[0, 0].detach(), True
    assert overlap.max() > 0.5
    expected = 0.0
    for index in torch.cartesian_prod(*(torch.arange(n) for n in overlap.shape)).tolist():
        logit, q = predictions.logits[tuple(index)], overlap[tuple(index)]
        probability = logit.sigmoid()
        entropy = -(q * probability.log() + (1 - q) * (1 - probability).log())
        weight = q if positive[tuple(index)] else 0.6 * probability.detach() ** 1.5
        expected = expected + weight * entropy
    expected = expected / 4
    assert_close(actual, expected)
    (gradient,) = torch.autograd.grad(expected, predictions.logits)
    actual.backward()
    assert_close(predictions.logits.grad, gradient)
    assert predictions.boxes.grad is None or not predictions.boxes.grad.any()


def test_matchability_aware_loss_follows_its_formula():
    """DEIM's equation 4: a matched pair costs -(q^g log p + (1 - q^g) log(1 - p)), other classes -p^g log(1 - p)."""
    targets = random_targets([3, 1])
    predictions = replace(random_predictions(2, 6, num_logits=4), match=KNOWN)
    predictions.boxes[0, 4] = targets.boxes[2] + 0.02
    predictions.logits.requires_grad_()
    actual = criterion_of(MatchabilityAwareLoss(gamma=1.5))({"": predictions}, targets)["loss"]
    probability = predictions.logits.sigmoid()
    expected = -(probability.detach() ** 1.5 * (1 - probability).log())
    for image, query, target in zip(*KNOWN[:3], strict=True):
        predicted_box, target_box = (
            box_cxcywh_to_xyxy(x)[None] for x in (predictions.boxes[image, query], targets.boxes[target])
        )
        q = box_iou(predicted_box, target_box)[0, 0] ** 1.5
        p = probability[image, query, targets.labels[target]]
        expected[image, query, targets.labels[target]] = -(q * p.log() + (1 - q) * (1 - p).log())
    assert_close(actual, expected.sum() / 4)
    (gradient,) = torch.autograd.grad(expected.sum() / 4, predictions.logits)
    actual.backward()
    assert_close(predictions.logits.grad, gradient)


def test_quality_focal_loss_follows_its_formula():
    """Gradients pass through the weights, not through the targets."""
    targets = random_targets([3, 1])
    predictions = replace(random_predictions(2, 6, num_logits=4), match=KNOWN)
    predictions.boxes[0, 4] = targets.boxes[2] + 0.02
    predictions.logits.requires_grad_()
    actual = criterion_of(QualityFocalLoss(gamma=1.5))({"": predictions}, targets)["loss"]
    probability = predictions.logits.sigmoid()
    expected = -(probability**1.5 * (1 - probability).log())
    for image, query, target in zip(*KNOWN[:3], strict=True):
        predicted_box, target_box = (
            box_cxcywh_to_xyxy(x)[None] for x in (predictions.boxes[image, query], targets.boxes[target])
        )
        q = box_iou(predicted_box, target_box)[0, 0]
        p = probability[image, query, targets.labels[target]]
        expected[image, query, targets.labels[target]] = -((q - p).abs() ** 1.5) * (
            q * p.log() + (1 - q) * (1 - p).log()
        )
    assert_close(actual, expected.sum() / 4)
    (gradient,) = torch.autograd.grad(expected.sum() / 4, predictions.logits)
    actual.backward()
    assert_close(predictions.logits.grad, gradient)


def test_position_supervised_loss_follows_its_formula():
    """Targets are scaled per image and set, so that the best box of each image has the target 1."""
    targets = random_targets([3, 1])
    sets = {
        name: replace(random_predictions(2, 6, num_logits=4, seed=seed), match=KNOWN)
        for seed, name in enumerate(("", "_0"))
    }
    sets[""].boxes[0, 4] = targets.boxes[2] + 0.02
    sets["_0"].boxes[1, 0] = targets.boxes[3] - 0.01
    for predictions in sets.values():
        predictions.logits.requires_grad_()
    losses = criterion_of(PositionSupervisedLoss(alpha=0.3, gamma=1.5, power=2.5, eps=0.0))(sets, targets)
    for name, predictions in sets.items():
        quality = {}
        for image, query, target in zip(*(part.tolist() for part in KNOWN[:3]), strict=True):
            boxes = (box_cxcywh_to_xyxy(x)[None] for x in (predictions.boxes[image, query], targets.boxes[target]))
            quality[image, query, int(targets.labels[target])] = box_iou(*boxes).item() ** 2.5
        expected = 0.0
        for index in itertools.product(range(2), range(6), range(4)):
            p = predictions.logits[index].sigmoid()
            if index in quality:
                largest = max(value for key, value in quality.items() if key[0] == index[0])
                t = quality[index] * max(1, 1 / (largest + 1e-8))
                expected = expected + 0.3 * (t - p).abs() ** 1.5 * (-t * p.log() - (1 - t) * (1 - p).log())
            else:
                expected = expected - 0.7 * p**1.5 * (1 - p).log()
        assert_close(losses[f"loss{name}"], expected / 4, rtol=1e-6, atol=1e-6)
        (gradient,) = torch.autograd.grad(expected / 4, predictions.logits)
        (actual_gradient,) = torch.autograd.grad(losses[f"loss{name}"], predictions.logits, retain_graph=True)
        assert_close(actual_gradient, gradient, rtol=1e-6, atol=1e-6)  # gradients also pass through the weights


def test_position_supervised_loss_of_extreme_logits_and_boxes_without_overlap_is_finite():
    targets = Targets(torch.tensor([0]), torch.tensor([[0.2, 0.2, 0.1, 0.1]]), [1])
    logits = torch.tensor([[[-500.0, 500.0], [500.0, -500.0]]], requires_grad=True)
    predictions = Predictions(logits, torch.full((1, 2, 4), 0.8))
    loss = criterion_of(PositionSupervisedLoss())({"": predictions}, targets)["loss"]
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


def test_the_best_pair_sets_the_class_target_of_a_query_with_several_pairs():
    targets = Targets(torch.tensor([1, 1]), torch.tensor([[0.5, 0.5, 0.2, 0.2]] * 2), [2])
    pairs = Match(
        torch.tensor([0, 0, 0]), torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), torch.tensor([1.0, 0.5, 0.25])
    )
    comparison = Comparison.of({"": random_predictions(1, 2, num_logits=3, dtype=torch.float32)}, {"": pairs}, targets)
    class_targets = comparison.class_targets(torch.tensor([0.5, 0.8, 0.8]))
    assert_close(class_targets, torch.tensor([[[0.0, 0.5, 0.0], [0.0, 0.2, 0.0]]]))  # qualities times weights
    assert_close(comparison.class_targets(), torch.tensor([[[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]]))


BINS = EdgeBins(8, 4.0, 0.5)


def distributions(seed, queries=6):
    """Predictions with edge distributions around initial boxes."""
    predictions = random_predictions(2, queries, num_logits=4, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randn(2, queries, 4, len(BINS), generator=generator, dtype=torch.float64).requires_grad_()
    initial = random_targets([queries, queries], seed=9).boxes.view(2, queries, 4)
    return replace(predictions, extra={"corners": corners, "initial_boxes": initial})


def test_fine_grained_localization_loss_follows_its_formula():
    """Cross-entropy with the two nearest bins of each edge, weighted by their distances and by the IoU of the boxes."""
    targets = random_targets([3, 1])
    targets.boxes[0, :2] = 0.95  # edges beyond the last bins
    predictions = replace(distributions(1), match=KNOWN)
    actual = criterion_of(FineGrainedLocalizationLoss(BINS))({"": predictions}, targets)["loss"]
    values, expected, outside = BINS.values(), 0.0, 0
    for image, query, target in zip(*KNOWN[:3], strict=True):
        cx, cy, w, h = predictions.extra["initial_boxes"][image, query].tolist()
        x0, y0, x1, y1 = box_cxcywh_to_xyxy(targets.boxes[target]).tolist()
        logs = predictions.extra["corners"][image, query].log_softmax(-1)
        pair = (box_cxcywh_to_xyxy(x)[None] for x in (predictions.boxes[image, query], targets.boxes[target]))
        overlap = box_iou(*pair)[0, 0]
        for edge, distance_to_centre in enumerate(
            [4 * (cx - x0) / w, 4 * (cy - y0) / h, 4 * (x1 - cx) / w, 4 * (y1 - cy) / h]
        ):
            distance = distance_to_centre - 2
            if distance <= values[0] or distance >= values[-1]:
                outside += 1
                expected = expected - overlap * logs[edge, 0 if distance < 0 else -1]
                continue
            left = max(index for index, value in enumerate(values) if value <= distance)
            fraction = (distance - values[left]) / (values[left + 1] - values[left])
            expected = expected - overlap * ((1 - fraction) * logs[edge, left] + fraction * logs[edge, left + 1])
    assert outside
    assert_close(actual, expected / 4)
    assert not predictions.boxes.requires_grad


def test_distributions_with_a_wrong_number_of_bins_raise_an_error():
    with pytest.raises(ValueError, match="9 bins.*built for 33"):
        criterion_of(FineGrainedLocalizationLoss(EdgeBins()))(
            {"": replace(distributions(1), match=KNOWN)}, random_targets([3, 1])
        )


def test_self_distillation_follows_its_formula():
    targets = random_targets([3, 1])
    layers = {"": distributions(1), "_0": distributions(2)}
    known = {"_dn": replace(distributions(3), match=KNOWN), "_dn_0": replace(distributions(4), match=KNOWN)}
    criterion = criterion_of(DecoupledDistillationFocalLoss(temperature=3.0))
    matches = criterion.match({**layers, **known}, targets)
    losses = criterion({**layers, **known}, targets)
    for teacher, student in (("", "_0"), ("_dn", "_dn_0")):
        assert losses[f"loss{teacher}"] == 0
        teacher_predictions, student_predictions = ({**layers, **known}[name] for name in (teacher, student))
        target_distribution = (teacher_predictions.extra["corners"].detach() / 3).softmax(-1)
        log_distribution = (student_predictions.extra["corners"] / 3).log_softmax(-1)
        divergence = 9 * (target_distribution * (target_distribution.log() - log_distribution)).sum(-1)  # (2, 6, 4)
        objects = {(int(i), int(q)): int(t) for i, q, t in zip(*matches[student][:3], strict=True)}
        matched, unmatched = [], []
        for index in ((image, query) for image in range(2) for query in range(6)):
            if index in objects:
                boxes = (
                    box_cxcywh_to_xyxy(x)[None]
                    for x in (student_predictions.boxes[index], targets.boxes[objects[index]])
                )
                matched.append(box_iou(*boxes)[0, 0] * divergence[index])
            else:
                unmatched.append(teacher_predictions.logits[index].sigmoid().max() * divergence[index])
        matched_weight, unmatched_weight = 4**0.5, 8**0.5  # four of twelve queries have an object
        means = torch.stack(matched).mean(), torch.stack(unmatched).mean()
        assert_close(
            losses[f"loss{student}"],
            (matched_weight * means[0] + unmatched_weight * means[1]) / (matched_weight + unmatched_weight),
        )
    sum(losses.values()).backward()
    assert not layers[""].extra["corners"].grad.any()
    assert layers["_0"].extra["corners"].grad.any()


def test_self_distillation_counts_the_matched_queries_of_the_union():
    """The union also counts for denoising sets; more queries have an object in the union than in any single layer."""
    targets = random_targets([3, 1])
    layers = {"": distributions(1), "_0": distributions(2)}
    known = {"_dn": replace(distributions(3), match=KNOWN), "_dn_0": replace(distributions(4), match=KNOWN)}
    union = MatchUnion(losses=["loss"], sets=[""])
    criterion = criterion_of(DecoupledDistillationFocalLoss(), union=union)
    matches = criterion.match(layers, targets)
    number = len(
        {(int(i), int(q)) for match in matches.values() for i, q in zip(match.image, match.query, strict=True)}
    )
    assert number > 4
    actual = criterion({**layers, **known}, targets)["loss_dn_0"]
    comparisons = [
        Comparison.of(known, dict.fromkeys(known, KNOWN), targets, torch.tensor(matched_fraction, dtype=torch.float64))
        for matched_fraction in (number / 12, 4 / 12)
    ]
    expected, expected_without_union = (
        mean.values[:, 6:].sum() / mean.weights[:, 6:].sum()
        for mean in map(DecoupledDistillationFocalLoss(), comparisons)
    )
    assert_close(actual, expected)
    assert not torch.isclose(actual, expected_without_union)


def test_losses_skip_sets_without_the_outputs_that_they_need():
    losses = {"loss_bbox": BoxL1Loss(), "loss_fgl": FineGrainedLocalizationLoss(BINS)}
    criterion = build(losses, dict.fromkeys(losses, 1.0))
    outputs = {"": distributions(1), "_pre": random_predictions(2, 6, num_logits=4)}
    assert set(criterion(outputs, random_targets([3, 1]))) == {"loss_bbox", "loss_fgl", "loss_bbox_pre"}
    with pytest.raises(ValueError, match="loss_fgl needs.*corners, initial_boxes"):
        build(losses, dict.fromkeys(losses, 1.0))({"": outputs["_pre"]}, random_targets([3, 1]))


def test_iou_aware_bce_loss_follows_its_formula():
    targets, predictions = random_targets([3, 1]), replace(random_predictions(2, 6, 4), match=KNOWN)
    predictions.boxes[0, 4] = targets.boxes[2] + 0.02  # random boxes may not overlap
    predictions.boxes[1, 0] = torch.tensor([0.01, 0.01, 0.01, 0.01])  # does not overlap its object
    predictions.logits.requires_grad_()
    predictions.boxes.requires_grad_()
    actual = criterion_of(IoUAwareBCELoss(alpha=0.3, gamma=1.5))({"": predictions}, targets)["loss"]
    class_targets = {}
    for image, query, target in zip(*KNOWN[:3], strict=True):
        index = int(image), int(query), int(targets.labels[target])
        boxes = (box_cxcywh_to_xyxy(x)[None] for x in (predictions.boxes[image, query], targets.boxes[target]))
        overlap = box_iou(*boxes)[0, 0].item()
        class_targets[index] = max(predictions.logits[index].sigmoid().item() ** 0.3 * overlap**0.7, 0.01)
    assert min(class_targets.values()) == 0.01
    assert max(class_targets.values()) > 0.5
    expected = 0.0
    for index in itertools.product(range(2), range(6), range(4)):
        probability = predictions.logits[index].sigmoid()
        t = class_targets.get(index)
        if t is None:
            expected = expected - probability**1.5 * (1 - probability).log()
        else:
            expected = expected - t * probability.log() - (1 - t) * (1 - probability).log()
    expected = expected / 4
    assert_close(actual, expected)
    (gradient,) = torch.autograd.grad(expected, predictions.logits)
    actual.backward()
    assert_close(predictions.logits.grad, gradient)
    assert predictions.boxes.grad is None or not predictions.boxes.grad.any()


def test_iou_aware_bce_loss_of_extreme_logits_is_finite():
    targets = Targets(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.0, 0.0]]), [1])
    logits = torch.tensor([[[-500.0, 500.0], [500.0, -500.0]]], requires_grad=True)
    predictions = Predictions(logits, torch.full((1, 2, 4), 0.5).mul(torch.tensor([1.0, 1, 0, 0])))
    loss = criterion_of(IoUAwareBCELoss())({"": predictions}, targets)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_varifocal_losses_of_boxes_without_area_are_finite():
    targets = Targets(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.0, 0.0]]), [1])
    predictions = Predictions(torch.zeros(1, 2, 3), torch.full((1, 2, 4), 0.5).mul(torch.tensor([1.0, 1, 0, 0])))
    assert torch.isfinite(criterion_of(VarifocalLoss())({"": predictions}, targets)["loss"])


# Sets of predictions


def test_every_layer_is_named_and_weighted(criterion):
    layers = [random_predictions(2, 6, seed=seed) for seed in range(3)]
    outputs = name_layers([output_of(layer) for layer in layers])
    assert list(outputs) == ["", "_0", "_1"]
    targets = random_targets([2, 2])
    losses = criterion(outputs, targets)
    assert set(losses) == {name + suffix for name in WEIGHTS for suffix in ("", "_0", "_1")}
    for suffix, layer in {"": layers[2], "_0": layers[0], "_1": layers[1]}.items():
        losses_alone = criterion({"": layer}, targets)
        for name in WEIGHTS:
            assert_close(losses[name + suffix], losses_alone[name])
    assert list(name_layers([output_of(layers[0])])) == [""]
    assert list(name_layers([output_of(layer) for layer in layers], aux_loss=False)) == [""]


@pytest.mark.parametrize("aux_loss", [True, False])
def test_sets_with_other_names_are_not_numbered_as_layers(aux_loss):
    outputs = [output_of(random_predictions(2, 6, seed=seed)) for seed in range(3)]
    outputs[1] = outputs[1]._replace(name="_pre")
    layers = ["", "_0"] if aux_loss else [""]
    assert list(name_layers(outputs, aux_loss=aux_loss)) == [*layers, "_pre"]
    named = name_layers(outputs, suffix="_dn*", aux_loss=aux_loss)
    assert list(named) == [*(f"_dn{name}" for name in layers), "_dn_pre"]
    assert named["_dn_pre"].logits is outputs[1].logits
    assert "_pre_one2many" in name_layers(outputs, suffix="_one2many")


def test_names_of_layers_and_families():
    assert [name_of_layer("", index, 3) for index in range(3)] == ["_0", "_1", ""]
    assert [name_of_layer("_dn*", index, 3) for index in range(3)] == ["_dn_0", "_dn_1", "_dn"]
    assert [name_of_layer("_one2many", index, 2) for index in range(2)] == ["_0_one2many", "_one2many"]
    families = {"_11": "", "": "", "_dn_3": "_dn", "_0_one2many": "_one2many", "_enc_one2many": "_enc_one2many"}
    assert {name: family(name) for name in families} == families


@pytest.mark.parametrize("loss", [CrossEntropyLoss(), FocalLoss(), VarifocalLoss()], ids=lambda x: type(x).__name__)
def test_losses_of_a_set_do_not_depend_on_the_other_sets(loss):
    criterion = build({**LOSSES, "loss_class": loss}, {**WEIGHTS, "loss_class": 1.0})
    targets = random_targets([3, 1])
    outputs = {
        "": random_predictions(2, 6),
        "_few_queries": random_predictions(2, 2, seed=2),  # one object is left out
        "_no_query": random_predictions(2, 0, seed=3),
        "_more_classes": random_predictions(2, 6, num_logits=9, seed=4),
        "_one_image": replace(random_predictions(1, 5, seed=5), targets=random_targets([4], seed=5)),
        "_groups": replace(random_predictions(2, 9, seed=7), num_groups=3, repeats=3),
        "_one2many": replace(random_predictions(2, 12, seed=8), targets=lambda targets: targets.repeated(2)),
        "_extra": replace(random_predictions(2, 6, seed=9), extra={"masks": torch.zeros(2, 6, 3)}),
        "_dn": replace(
            random_predictions(2, 4, seed=6),
            match=Match(torch.tensor([0, 1]), torch.tensor([3, 0]), torch.tensor([1, 3])),
            repeats=3,
        ),
    }
    with pytest.warns(UserWarning, match="3 objects.*2 queries"):
        losses = criterion(outputs, targets)
    assert list(losses) == [name + suffix for suffix in outputs for name in LOSSES]
    for suffix, predictions in outputs.items():
        for name, loss_alone in criterion({"": predictions}, targets).items():
            assert_close(losses[name + suffix], loss_alone)
            assert torch.isfinite(loss_alone)


def test_the_number_of_operators_hardly_grows_with_the_number_of_sets(criterion):
    class Count(TorchDispatchMode):
        operators = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.operators += not func.is_view
            return func(*args, **(kwargs or {}))

    def operators(sets, **fields):
        outputs = {f"_{n}": replace(random_predictions(2, 6, seed=n), **fields) for n in range(sets)}
        for predictions in outputs.values():
            predictions.logits.requires_grad_()
            predictions.boxes.requires_grad_()
        with Count() as count:
            sum(criterion(outputs, random_targets([3, 1])).values()).backward()
        return count.operators

    # A loop over sets would take about 150 operators per set.
    assert operators(12) - operators(2) < 10 * 20
    weighted = {"query_weight": torch.ones(2, 6), "weight": 2.0, "repeats": 2, "targets": Targets.class_agnostic}
    assert operators(12, **weighted) - operators(2, **weighted) < 10 * 20
    assert operators(12, match=KNOWN) - operators(2, match=KNOWN) < 10 * 20


def test_a_set_is_compared_with_its_own_targets(criterion):
    predictions, targets = random_predictions(2, 6), random_targets([3, 1])
    proposals = replace(predictions, targets=targets.class_agnostic())
    losses = criterion({"": predictions, "_enc": proposals}, targets)
    losses_alone = criterion({"": predictions}, targets.class_agnostic())
    for name in WEIGHTS:
        assert_close(losses[f"{name}_enc"], losses_alone[name])
    assert losses["loss_class_enc"] != losses["loss_class"]
    losses_by_function = criterion(
        {"": predictions, "_enc": replace(predictions, targets=Targets.class_agnostic)}, targets
    )
    for name, loss in losses.items():
        assert_close(losses_by_function[name], loss)
    doubled = replace(targets, **{f: torch.cat([getattr(targets, f)] * 2) for f in ("labels", "boxes")}, sizes=[4, 4])
    losses_of_doubled = criterion({"": predictions, "_other": replace(predictions, targets=doubled)}, targets)
    assert_close(losses_of_doubled["loss_bbox_other"], criterion({"": predictions}, doubled)["loss_bbox"])


def test_the_match_of_a_set_replaces_the_matcher(criterion):
    predictions, targets = random_predictions(2, 6), random_targets([3, 1])
    known = replace(predictions, match=KNOWN, repeats=2)
    losses = criterion({"": predictions, "_dn": known}, targets)
    box_l1 = (predictions.boxes[KNOWN.image, KNOWN.query] - targets.boxes[KNOWN.target]).abs().sum()
    assert_close(losses["loss_bbox_dn"], 5.0 * box_l1 / (4 * 2))
    mean = LOSSES["loss_class"](Comparison.of({"": predictions}, {"": KNOWN}, targets))
    assert_close(losses["loss_class_dn"], mean.values.sum() / mean.weights.sum())
    for name, loss in criterion({"": predictions}, targets).items():
        assert_close(losses[name], loss)
    assert criterion.match({"_dn": known}, targets)["_dn"] is KNOWN


def test_the_matcher_does_not_see_sets_with_a_match():
    def fail(predictions, targets):
        raise AssertionError(list(predictions))

    targets = random_targets([3, 1])
    criterion = SetCriterion(matcher=fail, losses=LOSSES, weights=WEIGHTS)
    with pytest.raises(AssertionError, match="''"):
        criterion({"": random_predictions(2, 6), "_dn": replace(random_predictions(2, 6), match=KNOWN)}, targets)


def test_sets_and_families_can_have_their_own_matchers():
    matched_sets = {}

    def recorder(name):
        def match(predictions, targets):
            matched_sets.setdefault(name, []).append(list(predictions))
            return dict.fromkeys(predictions, KNOWN)

        return match

    criterion = SetCriterion(
        matcher=recorder("all"),
        losses=LOSSES,
        weights=WEIGHTS,
        matchers={"_dn": recorder("dn"), "_dn_1": recorder("dn_1"), "_one2many": recorder("one2many")},
    )
    outputs = {
        name: random_predictions(2, 6)
        for name in ("", "_0", "_1", "_dn", "_dn_0", "_dn_1", "_one2many", "_0_one2many", "_enc")
    }
    criterion(outputs, random_targets([3, 1]))
    assert matched_sets == {
        "all": [["", "_0", "_1", "_enc"]],
        "dn": [["_dn", "_dn_0"]],
        "dn_1": [["_dn_1"]],
        "one2many": [["_one2many", "_0_one2many"]],
    }


# Weights


def test_weights_are_looked_up_by_full_name_then_family_then_base_name():
    outputs = {name: random_predictions(2, 6) for name in ("", "_0", "_1", "_dn", "_dn_0", "_dn_1", "_0_one2many")}
    targets = random_targets([3, 1])
    weights = {"loss": 1.0, "loss_0": 2.0, "loss_dn": 3.0, "loss_dn_1": 5.0, "loss_one2many": 7.0}
    losses = build({"loss": BoxL1Loss()}, weights)(outputs, targets)
    unit = criterion_of(BoxL1Loss())({"": random_predictions(2, 6)}, targets)["loss"]
    expected = {"": 1.0, "_0": 2.0, "_1": 1.0, "_dn": 3.0, "_dn_0": 3.0, "_dn_1": 5.0, "_0_one2many": 7.0}
    assert list(losses) == [f"loss{name}" for name in expected]
    for name, factor in expected.items():
        assert_close(losses[f"loss{name}"], factor * unit)


def test_a_weight_of_zero_gives_a_zero_loss_without_gradients():
    predictions, targets = random_predictions(2, 6), random_targets([3, 1])
    predictions.boxes.requires_grad_()
    loss = build({"loss": BoxL1Loss()}, {"loss": 0.0})({"": predictions}, targets)["loss"]
    loss.backward()
    assert loss == 0
    assert not predictions.boxes.grad.any()


def test_the_weight_of_a_set_multiplies_all_of_its_losses(criterion):
    predictions, targets = random_predictions(2, 6), random_targets([3, 1])
    losses = criterion({"": predictions, "_other": replace(predictions, weight=0.25)}, targets)
    for name in WEIGHTS:
        assert_close(losses[f"{name}_other"], 0.25 * losses[name])


def test_weights_of_pairs_multiply_losses_of_pairs_only(criterion):
    targets = random_targets([3, 1])
    weight = torch.tensor([0.5, 2.0, 0.0, 3.0], dtype=torch.float64)
    plain = replace(random_predictions(2, 6), match=KNOWN)
    weighted = replace(plain, match=KNOWN._replace(weight=weight))
    losses = criterion({"": plain, "_other": weighted}, targets)
    float32 = Predictions(plain.logits.float(), plain.boxes.float(), match=weighted.match)
    in_float32 = criterion({"": float32}, replace(targets, boxes=targets.boxes.float()))
    assert in_float32["loss_bbox"].dtype == torch.float32
    assert_close(in_float32["loss_bbox"], losses["loss_bbox_other"].float())
    distances = (plain.boxes[KNOWN.image, KNOWN.query] - targets.boxes[KNOWN.target]).abs().sum(-1)
    assert_close(losses["loss_bbox"], 5.0 * distances.sum() / 4)
    assert_close(losses["loss_bbox_other"], 5.0 * (distances * weight).sum() / 4)
    assert_close(losses["loss_class_other"], losses["loss_class"])


@pytest.mark.parametrize("loss", [CrossEntropyLoss(0.3), FocalLoss()], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bool])
def test_weights_of_queries_multiply_losses_of_queries_only(loss, dtype):
    criterion = build({**LOSSES, "loss_class": loss}, {**WEIGHTS, "loss_class": 1.0})
    targets = random_targets([3, 1])
    torch.manual_seed(0)
    weight = (torch.rand(2, 6) < 0.5) if dtype == torch.bool else torch.rand(2, 6, dtype=dtype)
    plain = replace(random_predictions(2, 6), match=KNOWN)
    losses = criterion({"": plain, "_other": replace(plain, query_weight=weight)}, targets)
    for name in ("loss_bbox", "loss_giou"):
        assert_close(losses[f"{name}_other"], losses[name])
    result = loss(Comparison.of({"": plain}, {"": KNOWN}, targets))
    if isinstance(result, Mean):
        weights = result.weights * weight
        assert_close(losses["loss_class_other"], (result.values * weight).sum() / weights.sum())
    else:
        assert_close(losses["loss_class_other"], (result * weight).sum() / 4)
    assert losses["loss_class_other"].dtype == torch.float64


def test_means_of_pairs_and_of_queries_are_weighted():
    values = torch.rand(2, 6, dtype=torch.float64)
    weights = torch.rand(2, 6, dtype=torch.float64)
    targets, pair_weight = random_targets([3, 1]), torch.tensor([1.0, 2.0, 0.5, 0.0], dtype=torch.float64)
    outputs = {
        "": replace(random_predictions(2, 6), match=KNOWN),
        "_0": replace(random_predictions(2, 6), match=KNOWN._replace(weight=pair_weight), query_weight=weights),
    }

    def mean_of_queries(comparison):
        return Mean((values * weights).repeat(1, 2), weights.repeat(1, 2))

    losses = criterion_of(mean_of_queries)(outputs, targets)
    assert_close(losses["loss"], (values * weights).sum() / weights.sum())
    assert_close(losses["loss_0"], (values * weights**2).sum() / (weights**2).sum())

    def mean_of_pairs(comparison):
        return Mean((values * weights)[0, :4].repeat(2), weights[0, :4].repeat(2))

    losses = criterion_of(mean_of_pairs)(outputs, targets)
    assert_close(losses["loss"], (values * weights)[0, :4].sum() / weights[0, :4].sum())
    product_of_weights = weights[0, :4] * pair_weight
    assert_close(losses["loss_0"], (values[0, :4] * product_of_weights).sum() / product_of_weights.sum())


def test_means_over_no_pairs_or_queries_are_zero():
    def mean_of_pairs(comparison):
        return Mean(comparison.boxes.sum(-1), torch.ones_like(comparison.boxes[:, 0]))

    predictions = random_predictions(2, 6)
    predictions.boxes.requires_grad_()
    loss = criterion_of(mean_of_pairs)({"": predictions}, random_targets([0, 0]))["loss"]
    loss.backward()
    assert loss == 0
    assert not predictions.boxes.grad.any()
    assert criterion_of(CrossEntropyLoss())({"": random_predictions(2, 0)}, random_targets([0, 0]))["loss"] == 0


# Additional outputs


def test_errors_name_missing_additional_outputs():
    predictions = replace(random_predictions(2, 6), extra={"mark": torch.zeros(2, 6, 1)}, match=KNOWN)
    comparison = Comparison.of({"": predictions}, {"": KNOWN}, random_targets([3, 1]))
    with pytest.raises(ValueError, match="'marc'.*'mark'"):
        comparison.matched("marc")
    with pytest.raises(ValueError, match="objects 'mark'"):
        comparison.wanted("mark")


def test_additional_outputs_reach_losses_and_costs():
    targets = replace(random_targets([3, 1]), extra={"mark": torch.arange(4.0).double()[:, None]})

    def cost(predictions, targets):
        return (predictions.extra["mark"][:, :, None] - targets.extra["mark"][:, None]).abs().sum(-1)

    def loss(comparison):
        return (comparison.matched("mark") - comparison.wanted("mark")).abs().sum(-1)

    torch.manual_seed(0)
    outputs = {}
    for name in ("", "_0"):
        marks = (4 * torch.rand(2, 6, 1, dtype=torch.float64)).requires_grad_()
        outputs[name] = replace(random_predictions(2, 6), extra={"mark": marks})
    criterion = SetCriterion(
        matcher=HungarianMatcher({"mark": cost}), losses={"loss_mark": loss}, weights={"loss_mark": 2.0}
    )
    losses = criterion(outputs, targets)
    for name, predictions in outputs.items():
        match = criterion.match({name: predictions}, targets)[name]
        distances = (predictions.extra["mark"][match.image, match.query] - targets.extra["mark"][match.target]).abs()
        assert_close(losses[f"loss_mark{name}"], 2.0 * distances.sum() / 4)
    sum(losses.values()).backward()
    assert [predictions.extra["mark"].grad.ne(0).sum() for predictions in outputs.values()] == [4, 4]


def test_a_loss_can_read_names_and_sizes_of_the_sets():
    comparisons = []

    def loss(comparison):
        comparisons.append((comparison.names, comparison.queries_per_set, comparison.matched_per_set))
        return comparison.boxes.sum(-1)

    outputs = {"": random_predictions(2, 6), "_0": random_predictions(2, 5, seed=2)}
    criterion_of(loss)(outputs, random_targets([3, 1]))
    assert comparisons == [(["", "_0"], [6, 5], [4, 4])]


# Special batches and precisions


@pytest.mark.parametrize("sizes", [[0, 0], [3, 0]])
@pytest.mark.parametrize("loss", [CrossEntropyLoss(), FocalLoss(), VarifocalLoss()], ids=lambda x: type(x).__name__)
def test_images_without_objects_train(loss, sizes):
    criterion = build({**LOSSES, "loss_class": loss}, {**WEIGHTS, "loss_class": 1.0})
    predictions = random_predictions(2, 6)
    predictions.logits.requires_grad_()
    predictions.boxes.requires_grad_()
    losses = criterion({"": predictions}, random_targets(sizes))
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(predictions.logits.grad).all()
    assert torch.isfinite(predictions.boxes.grad).all()
    if not any(sizes):
        assert losses["loss_bbox"] == 0
        assert losses["loss_class"] > 0


def test_gradients_agree_with_finite_differences(criterion):
    predictions, targets = random_predictions(1, 3), random_targets([2])

    def total(logits, boxes):
        return sum(criterion({"": Predictions(logits, boxes)}, targets).values())

    inputs = tuple(x.clone().requires_grad_() for x in (predictions.logits, predictions.boxes))
    assert torch.autograd.gradcheck(total, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_predictions_are_compared_in_float32(dtype):
    criterion = build(
        {**LOSSES, "loss_mark": lambda comparison: comparison.matched("mark")}, {**WEIGHTS, "loss_mark": 1}
    )
    targets = random_targets([2, 1], dtype=torch.float32)
    half = random_predictions(2, 6, dtype=dtype)
    half = replace(half, extra={"mark": half.boxes[..., 0], "index": torch.zeros(2, 6, dtype=torch.int64)})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = criterion({"": half}, targets)
    in_float32 = Predictions(half.logits.float(), half.boxes.float(), half.extra | {"mark": half.extra["mark"].float()})
    expected = criterion({"": in_float32}, targets)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert_close(loss, expected[name], rtol=0, atol=0)


def test_a_criterion_can_be_copied_and_pickled():
    predictions, targets = random_predictions(2, 6), random_targets([3, 1])
    criterion = build(matchers={"_enc": HungarianMatcher({"bbox": BoxL1Cost()})})
    expected = criterion({"": predictions, "_enc": predictions}, targets)
    for copied in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        for name, loss in copied({"": predictions, "_enc": predictions}, targets).items():
            assert_close(loss, expected[name], rtol=0, atol=0)


# Errors


@pytest.mark.parametrize(
    ("loss", "shown"),
    [
        (lambda comparison: comparison.boxes.sum(), r"\(\)"),
        (lambda comparison: comparison.boxes, r"\(8, 4\)"),
        (lambda comparison: comparison.logits, r"\(2, 12, 5\)"),
        (lambda comparison: Mean(comparison.boxes, comparison.boxes), r"\(8, 4\)"),
        (lambda comparison: Mean(comparison.boxes[:, 0], comparison.boxes), r"\(8,\) with weights of \(8, 4\)"),
        (lambda comparison: Mean(comparison.boxes[:, 0], 1.0), r"\(8,\) with weights of float"),
        (lambda comparison: 0.0, "float"),
    ],
)
def test_errors_name_a_loss_of_the_wrong_shape(loss, shown):
    outputs = {"": random_predictions(2, 6), "_0": random_predictions(2, 6, seed=2)}
    with pytest.raises(ValueError, match=rf"loss_odd returned .*{shown}.*\(M,\) = \(8,\).*\(B, R\) = \(2, 12\)"):
        build({"loss_odd": loss}, {"loss_odd": 1.0})(outputs, random_targets([3, 1]))


def test_a_loss_must_be_callable():
    with pytest.raises(ValueError, match="loss 'loss_odd' is .*not callable"):
        build({"loss_odd": {"alpha": 0.25}}, {"loss_odd": 1.0})


def test_weights_and_losses_must_agree():
    with pytest.raises(ValueError, match="'loss_bbox' has no weight.*los_bbox"):
        build({"loss_bbox": BoxL1Loss()}, {"los_bbox": 1.0})
    with pytest.raises(ValueError, match="weight 'los_bbox'.*'loss_bbox'"):
        build({"loss_bbox": BoxL1Loss()}, {"loss_bbox": 1, "los_bbox": 1.0})
    with pytest.raises(ValueError, match="weight 'loss_mask'"):
        build({"loss_bbox": BoxL1Loss()}, {"loss_bbox": 1, "loss_mask": 1})


def test_weights_and_matchers_of_missing_sets_raise_an_error():
    outputs, targets = {name: random_predictions(2, 6) for name in ("", "_0", "_dn_0")}, random_targets([3, 1])
    for name in ("loss_enc", "loss_1", "loss_dn_1", "loss_dnn"):
        with pytest.raises(ValueError, match=f"weight '{name}'"):
            build({"loss": BoxL1Loss()}, {"loss": 1.0, name: 1.0})(outputs, targets)
    with pytest.raises(ValueError, match="'_enc'"):
        build(matchers={"_enc": HungarianMatcher({"bbox": BoxL1Cost()})})(outputs, targets)
    build({"loss": BoxL1Loss()}, {"loss": 1.0, "loss_0": 1.0, "loss_dn": 1.0, "loss_dn_0": 1.0})(outputs, targets)
