import itertools
import warnings
from dataclasses import replace

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
    LayerOutput,
    PositionModulatedCost,
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


def match_of_one_set(matcher, predictions, targets):
    return matcher({"": predictions}, targets)[""]


def output_of(predictions):
    return LayerOutput(predictions.logits, predictions.boxes, predictions.extra)


def select_image(predictions, image):
    rows = slice(image, image + 1)
    return Predictions(predictions.logits[rows], predictions.boxes[rows])


def test_costs_follow_their_formulas():
    predictions, targets = random_predictions(2, 6), random_targets([3, 1])
    padded = targets.padded()
    for image, count in enumerate(targets.sizes):
        image_targets = image_of(targets, image)
        logits, predicted_boxes = predictions.logits[image], predictions.boxes[image]

        def cost_of_image(cost, image=image, count=count):
            return cost(output_of(predictions), padded)[image, :, :count]

        assert_close(cost_of_image(CrossEntropyCost(3.0)), -3.0 * logits.softmax(-1)[:, image_targets.labels])
        assert_close(cost_of_image(BoxL1Cost(2.0)), 2.0 * torch.cdist(predicted_boxes, image_targets.boxes, p=1))
        giou = generalized_box_iou(box_cxcywh_to_xyxy(predicted_boxes), box_cxcywh_to_xyxy(image_targets.boxes))
        assert_close(cost_of_image(GIoUCost(0.5, eps=0.0)), -0.5 * giou)
        assert_close(cost_of_image(GIoUCost(0.5)), -0.5 * giou, atol=1e-5, rtol=1e-4)
        as_positive = sigmoid_focal_loss(logits, torch.ones_like(logits), 0.25, 2.0)
        as_negative = sigmoid_focal_loss(logits, torch.zeros_like(logits), 0.25, 2.0)
        assert_close(cost_of_image(FocalCost(2.0)), 2.0 * (as_positive - as_negative)[:, image_targets.labels])


def test_the_cheapest_matching_is_found(matcher):
    predictions, targets = random_predictions(1, 5), random_targets([3])
    cost = sum(part(output_of(predictions), targets.padded()) for part in matcher.costs.values())[0]
    best = min(
        itertools.permutations(range(5), 3),
        key=lambda queries: sum(cost[q, t] for t, q in enumerate(queries)),
    )
    match = match_of_one_set(matcher, predictions, targets)
    assert {(query, target) for _, query, target in pairs(match)} == {(q, t) for t, q in enumerate(best)}
    assert match.weight is None


def test_the_focal_cost_minimises_the_total_focal_loss():
    predictions, targets = random_predictions(1, 5, num_logits=4), random_targets([3])
    match = match_of_one_set(HungarianMatcher({"class": FocalCost()}), predictions, targets)

    def total(queries):
        class_targets = torch.zeros_like(predictions.logits[0])
        for target, query in enumerate(queries):
            class_targets[query, targets.labels[target]] = 1
        return float(sigmoid_focal_loss(predictions.logits[0], class_targets, 0.25, 2.0, reduction="sum"))

    minimum = min(total(queries) for queries in itertools.permutations(range(5), 3))
    matched_queries = [query for _, query, _ in sorted(pairs(match), key=lambda pair: pair[2])]
    assert total(matched_queries) == pytest.approx(minimum)


def test_matches_of_a_batch_are_those_of_its_images(matcher):
    predictions, targets = random_predictions(3, 7), random_targets([4, 0, 2])
    batch_match = match_of_one_set(matcher, predictions, targets)
    expected, first = [], 0
    for image, size in enumerate(targets.sizes):
        match = match_of_one_set(matcher, select_image(predictions, image), image_of(targets, image))
        expected += [(image, query, target + first) for _, query, target in pairs(match)]
        first += size
    assert pairs(batch_match) == expected


def test_matches_of_a_set_do_not_depend_on_the_other_sets(matcher):
    targets = random_targets([2, 3])
    few = random_predictions(2, 6, seed=4)
    sets = {
        "": random_predictions(2, 5, seed=5),
        "_0": random_predictions(2, 9, seed=9),
        "_1": random_predictions(2, 3, seed=3),
        "_more_classes": random_predictions(2, 6, num_logits=9, seed=6),
        "_own_targets": replace(random_predictions(2, 6, seed=7), targets=random_targets([1, 4], seed=7)),
        "_agnostic": replace(random_predictions(2, 6, seed=8), targets=Targets.class_agnostic),
        "_with_extra": replace(few, extra={"masks": torch.zeros(2, 6, 3)}),
    }
    matches = matcher(sets, targets)
    assert list(matches) == list(sets)
    for name, predictions in sets.items():
        assert pairs(matches[name]) == pairs(match_of_one_set(matcher, predictions, targets)), name


@pytest.mark.parametrize("sizes", [[2, 3], [7, 0], [0, 0]])
def test_groups_are_matched_separately(matcher, sizes):
    predictions, targets = random_predictions(2, 15), random_targets(sizes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match = match_of_one_set(matcher, replace(predictions, num_groups=3), targets)
        expected = []
        for group in range(3):
            rows = slice(5 * group, 5 * group + 5)
            group_predictions = Predictions(predictions.logits[:, rows], predictions.boxes[:, rows])
            expected += [
                (image, query + 5 * group, target)
                for image, query, target in pairs(match_of_one_set(matcher, group_predictions, targets))
            ]
    assert pairs(match) == sorted(expected)
    if max(sizes) <= 5:
        counts = torch.bincount(match.target, minlength=len(targets))
        assert counts.tolist() == [3] * len(targets)


def test_repeated_objects_are_matched_several_times(matcher):
    predictions, targets = random_predictions(2, 12), random_targets([2, 3])
    repeated = targets.repeated(3)
    match = match_of_one_set(matcher, replace(predictions, targets=lambda targets: targets.repeated(3)), targets)
    assert pairs(match) == pairs(match_of_one_set(matcher, predictions, repeated))
    assert len(set(match.query.tolist())) >= 9
    assert len(match.query) == 15


def test_permuting_the_targets_permutes_the_matching(matcher):
    predictions, targets = random_predictions(1, 6), random_targets([4])
    order = torch.tensor([2, 0, 3, 1])
    permuted = Targets(targets.labels[order], targets.boxes[order], [4])
    before = {target: query for _, query, target in pairs(match_of_one_set(matcher, predictions, targets))}
    after = {int(order[target]): query for _, query, target in pairs(match_of_one_set(matcher, predictions, permuted))}
    assert before == after


def test_permuting_the_queries_permutes_the_matching(matcher):
    predictions, targets = random_predictions(1, 6), random_targets([4])
    order = torch.tensor([5, 2, 0, 3, 1, 4])
    permuted = Predictions(predictions.logits[:, order], predictions.boxes[:, order])
    before = {target: query for _, query, target in pairs(match_of_one_set(matcher, predictions, targets))}
    after = {target: int(order[query]) for _, query, target in pairs(match_of_one_set(matcher, permuted, targets))}
    assert before == after


def test_a_batch_without_objects_has_empty_matches(matcher):
    sets = {f"_{index}": random_predictions(2, 4) for index in range(3)}
    matches = matcher(sets, random_targets([0, 0]))
    assert [len(match.query) for match in matches.values()] == [0, 0, 0]
    assert matches["_0"].query.dtype == torch.int64


def test_no_queries_and_no_sets_give_no_pairs(matcher):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert pairs(match_of_one_set(matcher, random_predictions(2, 0), random_targets([2, 1]))) == []
    assert matcher({}, random_targets([2])) == {}


def test_more_objects_than_queries_warn_once_and_match_what_fits(matcher):
    predictions, targets = random_predictions(1, 2), random_targets([5])
    with pytest.warns(UserWarning, match="5 objects.*2 queries"):
        match = match_of_one_set(matcher, predictions, targets)
    assert len(set(match.query.tolist())) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        match_of_one_set(matcher, predictions, targets)


def test_the_warning_counts_the_queries_of_a_group(matcher):
    with pytest.warns(UserWarning, match="3 objects.*2 queries"):
        match_of_one_set(matcher, replace(random_predictions(1, 6), num_groups=3), random_targets([3]))


def test_groups_of_unequal_size_raise_an_error(matcher):
    with pytest.raises(ValueError, match="7 predictions '_0' cannot be divided.*num_groups=3"):
        matcher({"_0": replace(random_predictions(1, 7), num_groups=3)}, random_targets([2]))


def test_degenerate_boxes_do_not_make_costs_infinite(matcher):
    targets = Targets(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.0, 0.0]]), [1])
    predictions = Predictions(torch.zeros(1, 2, 3), torch.tensor([[[0.5, 0.5, 0.0, 0.0], [0.1, 0.1, 0.1, 0.1]]]))
    assert match_of_one_set(matcher, predictions, targets).query.tolist() == [0]


def test_errors_of_non_finite_predictions_name_the_image_and_the_set(matcher):
    good, bad = random_predictions(3, 4), random_predictions(3, 4)
    bad.boxes[2, 1] = float("nan")
    with pytest.raises(NonFiniteError, match="image 2 .*'_0'"):
        matcher({"": good, "_0": bad}, random_targets([1, 0, 2]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_costs_of_half_precision_are_computed_in_float32(matcher, dtype):
    targets = random_targets([3, 2], dtype=torch.float32)
    half = random_predictions(2, 6, dtype=dtype)
    in_float32 = Predictions(half.logits.float(), half.boxes.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = matcher.cost_matrices({"": half}, targets)[""]
    expected = matcher.cost_matrices({"": in_float32}, targets)[""]
    assert actual.dtype == expected.dtype == "float32"
    assert_close(torch.from_numpy(actual), torch.from_numpy(expected), rtol=0, atol=0)


class DistanceOfMarks:
    """A cost of an additional output and an additional property of objects."""

    def __call__(self, predictions, targets):
        return (predictions.extra["mark"][:, :, None] - targets.extra["mark"][:, None]).abs().sum(-1)


def test_a_cost_can_read_additional_outputs():
    targets = replace(random_targets([2, 3]), extra={"mark": torch.arange(5.0)[:, None]})
    marks = torch.tensor([[9.0, 1.1, 0.2, 8.0], [4.3, 2.1, 9.0, 2.9]])[..., None]
    predictions = replace(random_predictions(2, 4), extra={"mark": marks})
    match = match_of_one_set(HungarianMatcher({"mark": DistanceOfMarks()}), predictions, targets)
    assert pairs(match) == [(0, 1, 1), (0, 2, 0), (1, 0, 4), (1, 1, 2), (1, 3, 3)]


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        (lambda predictions, targets: predictions.boxes[..., 0], r"\(2, 4\)"),
        (lambda predictions, targets: predictions.logits[..., :1], r"\(2, 4, 1\)"),
        (lambda predictions, targets: 0.0, "float"),
    ],
)
def test_errors_name_a_cost_of_the_wrong_shape(cost, shown):
    matcher = HungarianMatcher({"bbox": BoxL1Cost(), "wrong": cost})
    with pytest.raises(ValueError, match=rf"'wrong' gave {shown}.*\(2, 4, 3\)"):
        match_of_one_set(matcher, random_predictions(2, 4), random_targets([3, 1]))


def test_a_matcher_needs_costs():
    with pytest.raises(ValueError, match="at least one cost"):
        HungarianMatcher({})
    with pytest.raises(ValueError, match="cost 'centre' is .*not callable"):
        HungarianMatcher({"centre": {"weight": 2}})


# Several queries per object


def test_candidates_are_the_matches_of_repeated_objects(matcher):
    predictions, targets = random_predictions(2, 12), random_targets([2, 3])
    matcher_of_candidates = HungarianMatcher(matcher.costs, candidates=2)
    matches = matcher_of_candidates({"": predictions, "_0": predictions}, targets)
    repeated = match_of_one_set(matcher, predictions, targets.repeated(2))
    original_objects = torch.tensor([0, 1, 0, 1, 2, 3, 4, 2, 3, 4])  # object of each of the repeated ones
    expected = [(image, query, int(original_objects[target])) for image, query, target in pairs(repeated)]
    assert pairs(matches[""]) == pairs(matches["_0"]) == expected
    assert len({(image, query) for image, query, _ in expected}) == 10
    assert matches[""].weight is None


def test_final_candidates_apply_to_the_final_set(matcher):
    targets = random_targets([2, 3])
    sets = {name: random_predictions(2, 12) for name in ("", "_0", "_enc")}
    matches = HungarianMatcher(matcher.costs, candidates=2, final_candidates=1)(sets, targets)
    assert {name: len(match.query) for name, match in matches.items()} == {"": 5, "_0": 10, "_enc": 10}
    assert pairs(matches[""]) == pairs(match_of_one_set(matcher, sets[""], targets))


def test_at_most_half_of_the_queries_are_candidates(matcher):
    """The limit applies to each image, and each object keeps at least one candidate."""
    targets = random_targets([1, 4, 2, 7])
    match = match_of_one_set(HungarianMatcher(matcher.costs, candidates=3), random_predictions(4, 12), targets)
    counts = torch.bincount(match.target, minlength=14).split(targets.sizes)
    assert [set(count.tolist()) for count in counts] == [{3}, {1}, {3}, {1}]


@pytest.mark.parametrize("arguments", [{"candidates": 0}, {"candidates": 2, "final_candidates": 0}])
def test_an_object_has_at_least_one_candidate(matcher, arguments):
    with pytest.raises(ValueError, match="at least one candidate .*=0"):
        HungarianMatcher(matcher.costs, **arguments)


# The cost of Stable-DINO


def modulated_cost_in_a_loop(predictions, targets, *, by_object):
    """(B, Q, T) for all objects of the batch, value by value; only objects of the image of a query are meaningful."""
    batch, queries, _ = predictions.logits.shape
    count = len(targets)
    cost = torch.zeros(batch, queries, count, dtype=torch.float64)
    image_of_object = [image for image, size in enumerate(targets.sizes) for _ in range(size)]
    for image in range(batch):
        corners = [box_cxcywh_to_xyxy(boxes) for boxes in (predictions.boxes[image], targets.boxes)]
        v = (generalized_box_iou(*corners) + 1) / 2
        if by_object:
            largest = v[:, [owner == image for owner in image_of_object]].max()
        else:
            by_class = {
                int(label): v[:, target] for target, label in enumerate(targets.labels)
            }  # the last object of a class wins
            v = torch.stack([by_class[int(label)] for label in targets.labels], dim=1)
            largest = v.max()
        p = predictions.logits[image].sigmoid()[:, targets.labels] * (v * max(1, 1 / largest)) ** 0.5
        cost[image] = 0.25 * (1 - p) ** 2 * -p.log() - 0.75 * p**2 * -(1 - p).log()
    return cost


@pytest.mark.parametrize("by_object", [False, True])
def test_the_position_modulated_cost_follows_its_formula(by_object):
    predictions, targets = random_predictions(2, 6), random_targets([3, 4])
    assert len(set(targets.labels.tolist())) < 7  # objects share classes
    actual = PositionModulatedCost(2.0, eps=0.0, by_object=by_object)(output_of(predictions), targets.padded())
    expected = 2 * modulated_cost_in_a_loop(predictions, targets, by_object=by_object)
    assert_close(actual[0, :, :3], expected[0, :, :3], rtol=1e-6, atol=1e-6)
    assert_close(actual[1, :, :4], expected[1, :, 3:], rtol=1e-6, atol=1e-6)
    assert torch.isfinite(actual).all()


def test_only_the_cost_by_object_ignores_objects_of_other_images():
    predictions, targets = random_predictions(2, 6), random_targets([3, 4])
    changed = Targets(targets.labels, targets.boxes.clone(), targets.sizes)
    changed.boxes[6] = predictions.boxes[0, 2]  # an object of the second image
    for by_object in (False, True):
        cost = PositionModulatedCost(by_object=by_object)
        expected, actual = (
            cost(output_of(predictions), batch_targets.padded())[0, :, :3] for batch_targets in (targets, changed)
        )
        assert torch.equal(expected, actual) == by_object


def test_costs_of_whole_sets_are_computed_for_each_set_separately():
    targets = random_targets([3, 1])
    matcher = HungarianMatcher({"label": PositionModulatedCost(), "bbox": BoxL1Cost()})
    sets = {"": random_predictions(2, 5, seed=5), "_0": random_predictions(2, 9, seed=9)}
    sets["_0"].boxes[0, 0] = targets.boxes[0]  # closer than all boxes of the first set
    costs = matcher.cost_matrices(sets, targets)
    for name, predictions in sets.items():
        assert_close(costs[name], matcher.cost_matrices({name: predictions}, targets)[name])


@pytest.mark.parametrize("by_object", [False, True])
@pytest.mark.parametrize(("sizes", "queries"), [([0, 0], 4), ([2, 0], 4), ([2, 1], 0)])
def test_position_modulated_costs_without_objects_or_queries_are_finite(by_object, sizes, queries):
    predictions = random_predictions(2, queries)
    cost = PositionModulatedCost(by_object=by_object)(output_of(predictions), random_targets(sizes).padded())
    assert cost.shape == (2, queries, max(sizes))
    assert torch.isfinite(cost).all()
