import itertools

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import generalized_box_iou, sigmoid_focal_loss

from detrex_lite.errors import NonFiniteError
from detrex_lite.modeling import (
    BoxL1Cost,
    CrossEntropyCost,
    FocalCost,
    GIoUCost,
    HungarianMatcher,
    Match,
    Predictions,
    Targets,
)
from detrex_lite.structures import box_cxcywh_to_xyxy

from .helpers import image_of, random_predictions, random_targets


@pytest.fixture
def matcher():
    return HungarianMatcher({"class": CrossEntropyCost(), "bbox": BoxL1Cost(), "giou": GIoUCost()})


def pairs(match):
    return list(zip(match.image.tolist(), match.query.tolist(), match.target.tolist(), strict=True))


def test_costs_by_their_formulas():
    predictions, targets = random_predictions(2, 6), random_targets([3, 1])
    labels, boxes = targets.padded()
    for image, count in enumerate(targets.sizes):
        one = image_of(targets, image)
        logits, predicted = predictions.logits[image], predictions.boxes[image]

        def block(cost, image=image, count=count):
            return cost(predictions, labels, boxes)[image, :, :count]

        assert_close(block(CrossEntropyCost(3.0)), -3.0 * logits.softmax(-1)[:, one.labels])
        assert_close(block(BoxL1Cost(2.0)), 2.0 * torch.cdist(predicted, one.boxes, p=1))
        giou = generalized_box_iou(box_cxcywh_to_xyxy(predicted), box_cxcywh_to_xyxy(one.boxes))
        assert_close(block(GIoUCost(0.5, eps=0.0)), -0.5 * giou)
        assert_close(block(GIoUCost(0.5)), -0.5 * giou, atol=1e-5, rtol=1e-4)
        as_positive = sigmoid_focal_loss(logits, torch.ones_like(logits), 0.25, 2.0)
        as_negative = sigmoid_focal_loss(logits, torch.zeros_like(logits), 0.25, 2.0)
        assert_close(block(FocalCost(2.0)), 2.0 * (as_positive - as_negative)[:, one.labels])


def test_the_cheapest_matching_is_found(matcher):
    predictions, targets = random_predictions(1, 5), random_targets([3])
    labels, boxes = targets.padded()
    cost = sum(part(predictions, labels, boxes) for part in matcher.costs.values())[0]
    best = min(
        itertools.permutations(range(5), 3),
        key=lambda queries: sum(cost[q, t] for t, q in enumerate(queries)),
    )
    (match,) = matcher([predictions], targets)
    assert {(query, target) for _, query, target in pairs(match)} == {(q, t) for t, q in enumerate(best)}


def test_the_focal_cost_minimises_the_total_focal_loss():
    predictions, targets = random_predictions(1, 5, num_logits=4), random_targets([3])
    (match,) = HungarianMatcher({"class": FocalCost()})([predictions], targets)

    def total(queries):
        wanted = torch.zeros_like(predictions.logits[0])
        for target, query in enumerate(queries):
            wanted[query, targets.labels[target]] = 1
        return float(sigmoid_focal_loss(predictions.logits[0], wanted, 0.25, 2.0, reduction="sum"))

    least = min(total(queries) for queries in itertools.permutations(range(5), 3))
    found = [query for _, query, _ in sorted(pairs(match), key=lambda pair: pair[2])]
    assert total(found) == pytest.approx(least)


def test_a_batch_matches_as_its_images_do_alone(matcher):
    predictions, targets = random_predictions(3, 7), random_targets([4, 0, 2])
    (together,) = matcher([predictions], targets)
    alone, first = [], 0
    for image, size in enumerate(targets.sizes):
        one = Predictions(*(x[image : image + 1] for x in predictions[:2]))
        (match,) = matcher([one], image_of(targets, image))
        alone += [(image, query, target + first) for _, query, target in pairs(match)]
        first += size
    assert pairs(together) == alone


def test_all_layers_together_match_as_each_alone_even_with_other_numbers_of_queries(matcher):
    targets = random_targets([2, 3])
    layers = [random_predictions(2, queries, seed=queries) for queries in (5, 9, 3)]
    together = matcher(layers, targets)
    assert [pairs(match) for match in together] == [pairs(matcher([layer], targets)[0]) for layer in layers]


def test_permuting_the_targets_permutes_the_matching(matcher):
    predictions, targets = random_predictions(1, 6), random_targets([4])
    order = torch.tensor([2, 0, 3, 1])
    permuted = Targets(targets.labels[order], targets.boxes[order], [4])
    before = {target: query for _, query, target in pairs(matcher([predictions], targets)[0])}
    after = {int(order[target]): query for _, query, target in pairs(matcher([predictions], permuted)[0])}
    assert before == after


def test_a_batch_without_objects_has_empty_matches(matcher):
    matches = matcher([random_predictions(2, 4)] * 3, random_targets([0, 0]))
    assert [len(match.query) for match in matches] == [0, 0, 0]
    assert matches[0].query.dtype == torch.int64


def test_more_objects_than_queries_warn_once_and_match_what_fits(matcher):
    predictions, targets = random_predictions(1, 2), random_targets([5])
    with pytest.warns(UserWarning, match="an image has 5 objects, but there are 2 queries"):
        (match,) = matcher([predictions], targets)
    assert len(set(match.query.tolist())) == 2
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        matcher([predictions], targets)


def test_sets_that_come_with_a_match_keep_it_and_cost_nothing(matcher):
    targets = random_targets([2, 1])
    first, last = random_predictions(2, 5, seed=1), random_predictions(2, 4, seed=2)
    known = Match(torch.tensor([0, 1]), torch.tensor([2, 0]), torch.tensor([1, 2]))
    fixed = Predictions(torch.full((2, 3, 5), float("nan")), torch.full((2, 3, 4), float("nan")), match=known)
    got = matcher([first, fixed, last], targets)
    assert got[1] is known
    assert [pairs(got[0]), pairs(got[2])] == [pairs(match) for match in matcher([first, last], targets)]
    assert matcher([fixed, fixed], targets) == [known, known]
    last.boxes[1, 1] = float("nan")
    with pytest.raises(NonFiniteError, match="image 1 of the batch is not finite in prediction set 2"):
        matcher([first, fixed, last], targets)


def test_degenerate_boxes_do_not_make_costs_infinite(matcher):
    targets = Targets(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.0, 0.0]]), [1])
    predictions = Predictions(torch.zeros(1, 2, 3), torch.tensor([[[0.5, 0.5, 0.0, 0.0], [0.1, 0.1, 0.1, 0.1]]]))
    (match,) = matcher([predictions], targets)
    assert match.query.tolist() == [0]


def test_not_finite_predictions_name_the_image_and_the_set(matcher):
    good, bad = random_predictions(3, 4), random_predictions(3, 4)
    bad.boxes[2, 1] = float("nan")
    with pytest.raises(NonFiniteError, match="image 2 of the batch is not finite in prediction set 1"):
        matcher([good, bad], random_targets([1, 0, 2]))


def test_a_matcher_needs_costs():
    with pytest.raises(ValueError, match="at least one cost"):
        HungarianMatcher({})
