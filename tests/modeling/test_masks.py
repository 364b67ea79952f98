"""Masks at points, mask costs and losses, and boxes around masks, compared with loops and with transformers."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.modeling import (
    Comparison,
    FocalCost,
    HungarianMatcher,
    LayerOutput,
    MaskBCELoss,
    MaskCost,
    MaskDiceLoss,
    MaskFeatures,
    Match,
    Predictions,
    SetCriterion,
    Targets,
    WholeMaskDiceLoss,
    WholeMaskFocalLoss,
    masks,
)
from detrex_lite.structures import Boxes, Instances, inverse_sigmoid

STRIDE = 4


def random_masks(number, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(number, height, width, generator=generator) > 0.5


def sample_by_formula(values, x, y):
    """Bilinear interpolation of a map (h, w), zero-padded, at (x, y) in cells; the first centre is (0.5, 0.5)."""
    total = 0.0
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    for column in (left, left + 1):
        for row in (top, top + 1):
            if 0 <= row < len(values) and 0 <= column < len(values[0]):
                total += values[row][column] * (1 - abs(x - 0.5 - column)) * (1 - abs(y - 0.5 - row))
    return total


def corners_and_random_points(number):
    edges = torch.tensor([[0.0, 0], [1, 1], [0, 1], [0.5, 0.5]], dtype=torch.float64)
    return torch.cat([edges, torch.rand(number - 4, 2, dtype=torch.float64)]).expand(3, -1, -1)


def test_maps_are_interpolated_between_cells():
    maps, points = torch.randn(3, 2, 4, 6, dtype=torch.float64), corners_and_random_points(12)
    sampled = masks.sample_maps(maps, points)
    for number in range(3):
        for channel in range(2):
            rows = maps[number, channel].tolist()
            expected = [sample_by_formula(rows, x * 6, y * 4) for x, y in points[number].tolist()]
            assert_close(sampled[number, channel], torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("frame", [(5, 7), (8, 8)])
def test_masks_are_interpolated_between_pixels(frame):
    objects, points = random_masks(2, 5, 7), corners_and_random_points(12)
    sampled = masks.sample_masks(objects, torch.tensor([1, 0, 1]), points, frame)
    for row, number in enumerate([1, 0, 1]):
        values = objects[number].double().tolist()
        expected = [sample_by_formula(values, x * frame[1], y * frame[0]) for x, y in points[row].tolist()]
        assert_close(sampled[row], torch.tensor(expected, dtype=torch.float64))


def test_most_points_are_where_a_mask_is_least_certain():
    torch.manual_seed(0)
    ramp = torch.linspace(-8, 8, 64).expand(2, 64, 64)
    points = masks.uncertain_points(ramp, 100, 3.0, 0.75)
    assert points.shape == (2, 100, 2)
    distance = (points[..., 0] - 0.5).abs()
    # The 75 most certain points of 300 candidates are the nearest quarter.
    assert distance[:, :75].max() < 0.2
    assert distance[:, 75:].max() > 0.3


def test_points_are_at_least_float32():
    assert masks.draw_points(2, 3, 2, like=torch.zeros(1).bfloat16()).dtype == torch.float32
    assert masks.draw_points(2, 3, 2, like=torch.zeros(1).double()).dtype == torch.float64


def random_predictions(sets=1, queries=6, channels=5, height=7, width=9, seed=0, **fields):
    """Sets of predictions of a batch of two images, which share mask features."""
    torch.manual_seed(seed)
    features = MaskFeatures(torch.randn(2, channels, height, width, dtype=torch.float64, requires_grad=True), STRIDE)
    predictions = []
    for _ in range(sets):
        embeddings = torch.randn(2, queries, channels, dtype=torch.float64, requires_grad=True)
        logits, boxes = torch.randn(2, queries, 3, dtype=torch.float64), torch.rand(2, queries, 4, dtype=torch.float64)
        predictions.append(
            Predictions(logits, boxes, {masks.MASK_EMBEDDING: embeddings}, mask_features=features, **fields)
        )
    return predictions


def random_targets(sizes=(3, 2), height=28, width=36):
    objects = sum(sizes)
    return Targets(
        torch.arange(objects) % 3,
        torch.rand(objects, 4, dtype=torch.float64),
        list(sizes),
        {"masks": random_masks(objects, height, width)},
    )


def whole_logits(predictions):
    """Logits of all masks, (B, Q, h, w)."""
    return torch.einsum(
        "bqc,bchw->bqhw", predictions.extra[masks.MASK_EMBEDDING], predictions.mask_features.tensor
    ).detach()


def fixed_points(*shape, like=None):
    """Replaces `draw_points` by points that are the same for all masks and depend on their number only."""
    generator = torch.Generator().manual_seed(shape[-2])
    return torch.empty(shape[-2], 2, dtype=torch.float64).uniform_(generator=generator).expand(*shape)


@pytest.mark.parametrize("part", [1, masks.PART])
def test_mask_costs_agree_with_a_loop_over_pairs(monkeypatch, part):
    monkeypatch.setattr(masks, "draw_points", fixed_points)
    monkeypatch.setattr(masks, "PART", part)
    (predictions,), targets = random_predictions(), random_targets()
    costs = MaskCost(weight=2.0, dice_weight=3.0, num_points=11)(
        LayerOutput.joined([predictions]), targets.padded()
    ).detach()
    points, logits = fixed_points(1, 11, 2), whole_logits(predictions)
    first = 0
    for image, size in enumerate(targets.sizes):
        for query in range(6):
            x = masks.sample_maps(logits[image, query][None, None], points)[0]
            for number in range(size):
                mask = targets.extra["masks"][first + number].double()
                t = masks.sample_maps(mask[None, None], points)[0]
                expected = 2 * masks.binary_cross_entropy(x, t) + 3 * masks.dice_loss(x, t)
                assert_close(costs[image, query, number], expected[0])
        first += size


def test_sets_without_masks_have_a_mask_cost_of_zero():
    (predictions,), targets = random_predictions(), random_targets()
    costs = MaskCost()(LayerOutput(predictions.logits, predictions.boxes, {}), targets.padded())
    assert costs.shape == (2, 6, 3)
    assert not costs.any()


def test_mask_costs_of_an_empty_batch_have_no_columns():
    (predictions,), targets = random_predictions(), random_targets(sizes=(0, 0))
    assert MaskCost(num_points=5)(LayerOutput.joined([predictions]), targets.padded()).shape == (2, 6, 0)


MATCH = Match(torch.tensor([1, 0, 0, 1]), torch.tensor([5, 2, 0, 1]), torch.tensor([4, 0, 2, 3]))


@pytest.mark.parametrize("sizes", [None, [2, 2]])
@pytest.mark.parametrize("part", [1, masks.PART])
def test_losses_at_points_agree_with_a_loop_over_pairs(monkeypatch, part, sizes):
    monkeypatch.setattr(masks, "draw_points", fixed_points)
    monkeypatch.setattr(masks, "PART", part)
    sets = dict(zip(("", "_0"), random_predictions(sets=2), strict=True))
    targets, match = random_targets(), MATCH._replace(sizes=sizes)
    comparison = Comparison.of(sets, {"": match, "_0": match}, targets)
    losses = [loss(num_points=16)(comparison) for loss in (MaskBCELoss, MaskDiceLoss)]
    row = 0
    for predictions in sets.values():
        for image, query, target in zip(*MATCH[:3], strict=True):
            logits = whole_logits(predictions)[image, query][None]
            points = masks.uncertain_points(logits, 16, 3.0, 0.75)
            x = masks.sample_maps(logits[:, None], points)[:, 0]
            t = masks.sample_maps(targets.extra["masks"][target].double()[None, None], points)[:, 0]
            assert_close(losses[0][row], masks.binary_cross_entropy(x, t)[0])
            assert_close(losses[1][row], masks.dice_loss(x, t)[0])
            row += 1


def test_losses_of_whole_masks_average_over_all_pixels():
    targets = random_targets()
    logits = torch.randn(2, 6, 7, 9, dtype=torch.float64)
    predictions = Predictions(
        torch.randn(2, 6, 3), torch.rand(2, 6, 4, dtype=torch.float64), {masks.MASK_LOGITS: logits}
    )
    comparison = Comparison.of({"": predictions}, {"": MATCH}, targets)
    focal, dice = WholeMaskFocalLoss()(comparison), WholeMaskDiceLoss()(comparison)
    for row, (image, query, target) in enumerate(zip(*MATCH[:3], strict=True)):
        x = torch.nn.functional.interpolate(
            logits[image, query][None, None], (28, 36), mode="bilinear", align_corners=False
        ).flatten()
        t = targets.extra["masks"][target].flatten().double()
        p = x.sigmoid()
        expected = torch.where(t > 0, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log())
        assert_close(focal[row], expected.mean())
        assert_close(dice[row], 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))


def criterion_of_masks(num_points=16):
    losses = {"loss_mask": MaskBCELoss(num_points), "loss_dice": MaskDiceLoss(num_points)}
    matcher = HungarianMatcher({"label": FocalCost(), "mask": MaskCost(num_points=num_points)})
    return SetCriterion(matcher=matcher, losses=losses, weights={"loss_mask": 5.0, "loss_dice": 5.0})


def test_losses_without_objects_are_zero_and_all_inputs_get_gradients():
    sets = dict(zip(("", "_0"), random_predictions(sets=2), strict=True))
    losses = criterion_of_masks()(sets, random_targets(sizes=(0, 0)))
    assert not any(losses.values())
    sum(losses.values()).backward()
    assert sets[""].mask_features.tensor.grad is not None
    assert all(predictions.extra[masks.MASK_EMBEDDING].grad is not None for predictions in sets.values())


def test_whole_masks_are_not_kept_for_the_backward_pass():
    """Whole masks of 30 pairs have 30 * 4096 values; only some points of each may be kept."""
    targets = random_targets(sizes=(5, 5), height=256, width=256)
    sets = dict(zip(("", "_0", "_1"), random_predictions(sets=3, channels=2, height=64, width=64), strict=True))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        sum(criterion_of_masks(num_points=100)(sets, targets).values()).backward()
    largest = {tensor.data_ptr(): tensor.numel() for tensor in kept if tensor.is_floating_point()}
    assert sum(largest.values()) < 30 * 4096 / 2


def box_in_a_loop(logits, padding, eps):
    inside = [(row, column) for row, line in enumerate(logits) for column, value in enumerate(line) if value > 0]
    inside = [pixel for pixel in inside if not padding[pixel]]
    height, width = int((~padding[:, 0]).sum()), int((~padding[0]).sum())
    x0, y0, x1, y1 = 1e8, 1e8, 0, 0
    if inside:
        rows, columns = zip(*inside, strict=True)
        x0, y0, x1, y1 = min(columns), min(rows), max(columns), max(rows)
    x0, y0, x1, y1 = x0 / width, y0 / height, x1 / width, y1 / height
    box = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], dtype=torch.float64)
    return inverse_sigmoid(box, eps).sigmoid()


@pytest.mark.parametrize("part", [1, masks.PART])
def test_boxes_of_masks_agree_with_a_loop(monkeypatch, part):
    monkeypatch.setattr(masks, "PART", part)
    (predictions,) = random_predictions(channels=2)
    embeddings, features = predictions.extra[masks.MASK_EMBEDDING], predictions.mask_features
    with torch.no_grad():
        features.tensor[:, 1] = 1.0
        embeddings[0, 0] = torch.tensor([0.0, -1])  # an empty mask
    padding = torch.zeros(2, 7, 9, dtype=torch.bool)
    padding[1, 5:] = True
    padding[1, :, 6:] = True
    for features_padding in (None, padding):
        boxes = masks.boxes_of_masks(embeddings, features._replace(padding=features_padding))
        for image in range(2):
            for query in range(6):
                logits = whole_logits(predictions)[image, query].tolist()
                image_padding = torch.zeros(7, 9, dtype=torch.bool) if features_padding is None else padding[image]
                assert_close(boxes[image, query], box_in_a_loop(logits, image_padding, 1e-5))


def test_errors_name_what_a_detector_without_masks_needs():
    (predictions,) = random_predictions()
    with pytest.raises(ValueError, match="mask_branch"):
        masks.features_of(replace(predictions, mask_features=None))
    with pytest.raises(ValueError, match="mask_embedding"):
        masks.features_of(replace(predictions, extra={}))


def inputs_with(**fields):
    boxes, classes = Boxes(torch.tensor([[1.0, 1, 5, 6]])), torch.tensor([0])
    return [{"file_name": "a.jpg", "instances": Instances((8, 10), gt_boxes=boxes, gt_classes=classes, **fields)}]


def test_masks_are_padded_to_the_size_of_the_batch():
    mask = random_masks(1, 8, 10)
    targets = Targets.from_inputs(
        inputs_with(gt_masks=mask), num_classes=1, like=torch.zeros(1, 3, 12, 16), with_masks=True
    )
    assert targets.extra["masks"].shape == (1, 12, 16)
    assert targets.extra["masks"].dtype == torch.bool
    assert torch.equal(targets.extra["masks"][:, :8, :10], mask)
    assert targets.extra["masks"].sum() == mask.sum()
    targets_without_masks = Targets.from_inputs(
        inputs_with(gt_masks=mask), num_classes=1, like=torch.zeros(1, 3, 12, 16)
    )
    assert targets_without_masks.extra == {}


def test_missing_masks_and_wrong_numbers_of_masks_raise_an_error():
    like = torch.zeros(1, 3, 8, 10)
    with pytest.raises(ValueError, match=r"a\.jpg.*gt_masks"):
        Targets.from_inputs(inputs_with(), num_classes=1, like=like, with_masks=True)
    record = inputs_with()
    record[0]["instances"]._fields["gt_masks"] = random_masks(2, 8, 10)
    with pytest.raises(ValueError, match=r"a\.jpg.*2 masks.*1 objects"):
        Targets.from_inputs(record, num_classes=1, like=like, with_masks=True)


def test_losses_and_matches_agree_with_transformers(monkeypatch):
    modeling = pytest.importorskip("transformers.models.mask2former.modeling_mask2former")
    from transformers import Mask2FormerConfig

    monkeypatch.setattr(masks, "draw_points", fixed_points)
    (predictions,), targets = random_predictions(), random_targets()
    logits, objects = whole_logits(predictions), targets.extra["masks"].split(targets.sizes)
    monkeypatch.setattr(torch, "rand", lambda *shape, device=None: fixed_points(*shape).contiguous())
    # Neither matcher uses a class cost.
    matcher = modeling.Mask2FormerHungarianMatcher(cost_class=0.0, cost_mask=5.0, cost_dice=5.0, num_points=16)
    pairs = matcher(logits, predictions.logits, objects, targets.labels.split(targets.sizes))
    config = Mask2FormerConfig(train_num_points=16, oversample_ratio=3.0, importance_sample_ratio=0.75)
    expected = modeling.Mask2FormerLoss(config, {}).loss_masks(
        logits, [mask.double() for mask in objects], pairs, len(targets)
    )
    criterion = criterion_of_masks()
    criterion.matcher.costs.pop("label")
    match = criterion.match({"": predictions}, targets)[""]
    assert match.image.tolist() == [0, 0, 0, 1, 1]
    assert match.query.tolist() == torch.cat([query for query, _ in pairs]).tolist()
    assert match.target.tolist() == torch.cat([pairs[0][1], pairs[1][1] + 3]).tolist()
    losses = criterion({"": predictions}, targets)
    assert_close(losses, {name: 5 * value for name, value in expected.items()})
