"""Assignment by IoU, compared with a loop over queries and objects."""

import pytest
import torch
from torch.testing import assert_close

from detrex_lite.modeling import IoUAssigner, Predictions, Targets
from detrex_lite.structures import box_cxcywh_to_xyxy, pairwise_iou


def make_targets(sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    number = sum(sizes)
    centre = 0.3 + 0.4 * torch.rand(number, 2, generator=generator)
    side = 0.2 + 0.3 * torch.rand(number, 2, generator=generator)
    labels = torch.randint(5, (number,), generator=generator)
    return Targets(labels, torch.cat([centre, side], dim=1), list(sizes))


def make_predictions(batch, queries, seed=1, **fields):
    generator = torch.Generator().manual_seed(seed)
    boxes, reference = (0.3 + 0.3 * torch.rand(batch, queries, 4, generator=generator) for _ in range(2))
    return Predictions(torch.zeros(batch, queries, 5), boxes, reference=reference, **fields)


def pairs_in_a_loop(reference, targets, threshold, per_object):
    """(image, query, object) of every assigned pair, without a limit on the number of samples."""
    pairs, first = [], 0
    for image, size in enumerate(targets.sizes):
        corners = box_cxcywh_to_xyxy(reference[image])
        objects = box_cxcywh_to_xyxy(targets.boxes[first : first + size])
        overlaps = pairwise_iou(objects, corners, 1e-6).tolist()
        queries = range(len(corners))
        candidates = [0] * size
        for query in queries if size else ():
            column = [row[query] for row in overlaps]
            if max(column) >= threshold or any(row[query] == max(row) for row in overlaps):
                candidates[column.index(max(column))] += 1
        for number, row in enumerate(overlaps):
            best = sorted(queries, key=lambda query: -row[query])[: min(candidates[number], per_object)]
            pairs += [(image, query, first + number) for query in best]
        first += size
    return pairs


def as_pairs(match):
    return list(zip(*(part.tolist() for part in match[:3]), strict=True))


def assigner(**changes):
    return IoUAssigner(**{"iou_threshold": 0.5, "num_samples": 1000, "positive_fraction": 0.5, **changes})


@pytest.mark.parametrize("per_object", [1, 4, 100])
def test_assignment_agrees_with_a_loop_over_queries_and_objects(per_object):
    targets, predictions = make_targets([3, 0, 2]), make_predictions(3, 30)
    match = assigner(max_per_object=per_object)({"": predictions}, targets)[""]
    expected = pairs_in_a_loop(predictions.reference, targets, 0.5, per_object)
    assert len({target for _, _, target in expected}) in range(2, 5)  # objects without candidates stay unassigned
    assert sorted(as_pairs(match)) == sorted(expected)
    assert match.weight is None


def test_candidates_above_the_limit_are_sampled_reproducibly():
    targets = Targets(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.4, 0.4]]), [1])
    predictions = Predictions(torch.zeros(1, 20, 5), torch.rand(1, 20, 4), reference=targets.boxes.expand(1, 20, 4))
    for number in (1, 3, 7):
        limited = assigner(num_samples=2 * number, max_per_object=20)
        assert len(limited({"": predictions}, targets)[""].query) == number
    # Each object has ten candidates, of which only ten in total are drawn.
    far = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.2, 0.2, 0.2, 0.2]])
    targets = Targets(torch.tensor([0, 1]), far, [2])
    reference = torch.cat([far[:1].expand(10, 4), far[1:].expand(10, 4)])[None]
    predictions = Predictions(torch.zeros(1, 20, 5), torch.rand(1, 20, 4), reference=reference)
    limited = assigner(num_samples=20, max_per_object=20)
    numbers = []
    for seed in (0, 0, 1, 2, 3):
        torch.manual_seed(seed)
        numbers.append(limited({"": predictions}, targets)[""].target.tolist().count(0))
    assert numbers[0] == numbers[1]
    assert len(set(numbers)) > 1


def test_layers_with_the_same_references_share_a_match():
    targets, last_layer = make_targets([2, 1]), make_predictions(2, 30)
    first_layer = Predictions(last_layer.logits, last_layer.boxes + 0.1, reference=last_layer.reference)
    other_reference = make_predictions(2, 30, seed=5)
    matches = assigner()({"": last_layer, "_0": first_layer, "_other": other_reference}, targets)
    assert matches[""] is matches["_0"]
    assert as_pairs(matches[""]) != as_pairs(matches["_other"])


def test_references_can_be_shared_by_all_images():
    targets, predictions = make_targets([2, 1]), make_predictions(2, 30)
    anchors = predictions.reference[:1]
    shared = Predictions(predictions.logits, predictions.boxes, reference=anchors)
    per_image = Predictions(predictions.logits, predictions.boxes, reference=anchors.expand(2, -1, -1))
    assert as_pairs(assigner()({"": shared}, targets)[""]) == as_pairs(assigner()({"": per_image}, targets)[""])


def test_groups_are_assigned_separately():
    targets = make_targets([2, 0, 3])
    predictions = make_predictions(3, 30, num_groups=3)
    match = assigner()({"": predictions}, targets)[""]
    expected = []
    for group in range(3):
        references = predictions.reference[:, 10 * group : 10 * group + 10]
        pairs = pairs_in_a_loop(references, targets, 0.5, 4)
        expected += [(image, query + 10 * group, target) for image, query, target in pairs]
    assert sorted(as_pairs(match)) == sorted(expected)


def test_of_predictions_assigns_by_predicted_boxes():
    targets, predictions = make_targets([2]), make_predictions(1, 30)
    match = assigner(of_predictions=True)({"": predictions}, targets)[""]
    assert sorted(as_pairs(match)) == sorted(pairs_in_a_loop(predictions.boxes, targets, 0.5, 4))


@pytest.mark.parametrize(("reference", "fault"), [(None, "have no references"), (torch.rand(1, 4, 2), "points")])
def test_references_that_are_not_boxes_raise_an_error(reference, fault):
    predictions = Predictions(torch.zeros(1, 4, 5), torch.rand(1, 4, 4), reference=reference)
    with pytest.raises(ValueError, match=f"'_0'.*{fault}.*of_predictions=True"):
        assigner()({"_0": predictions}, make_targets([1]))


@pytest.mark.parametrize("changes", [{"num_samples": 1}, {"max_per_object": 0}])
def test_limits_that_assign_no_query_raise_an_error(changes):
    with pytest.raises(ValueError, match="assign no query"):
        assigner(**changes)


def test_no_query_is_assigned_without_objects():
    match = assigner()({"": make_predictions(2, 5)}, make_targets([0, 0]))[""]
    assert [len(part) for part in match[:3]] == [0, 0, 0]
    assert_close(match.image, torch.zeros(0, dtype=torch.int64))
