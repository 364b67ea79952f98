"""One match for several sets of predictions."""

import random

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.testing import assert_close

from detrex_lite.config import get_config, instantiate
from detrex_lite.modeling import (
    BoxL1Cost,
    BoxL1Loss,
    FocalLoss,
    HungarianMatcher,
    Match,
    MatchUnion,
    Predictions,
    SetCriterion,
    Targets,
)
from detrex_lite.modeling.predictions import with_targets
from tests.test_distributed import needs_gloo

from .helpers import image_of, random_predictions, random_targets

UNION = MatchUnion(losses=["loss_bbox"], sets=["", "_enc"])


def match_of(*pairs):
    """A match of pairs (image, query, target)."""
    return Match(*torch.tensor(pairs, dtype=torch.int64).reshape(-1, 3).T)


def pairs_of(union):
    """The pairs of weight 1, after checking that they are distinct and that pairs of weight 0 only repeat them."""
    counted = [
        tuple(map(int, (image, query, target)))
        for image, query, target, weight in zip(*union[:4], strict=True)
        if weight == 1
    ]
    all_pairs = {tuple(map(int, pair)) for pair in zip(*union[:3], strict=True)}
    assert all_pairs == set(counted)
    assert len(set(counted)) == len(counted)
    return set(counted)


def predictions_of_sets(names, sizes, queries=4):
    targets = random_targets(sizes)
    return with_targets({name: random_predictions(len(sizes), queries) for name in names}, targets)


def test_a_query_gets_the_object_that_most_sets_assign():
    matches = {
        "": match_of((0, 0, 0), (0, 1, 1), (1, 3, 2)),
        "_0": match_of((0, 0, 1), (0, 1, 0), (1, 3, 2)),
        "_1": match_of((0, 0, 1), (0, 2, 0), (1, 0, 2)),
        "_dn": match_of((0, 3, 0)),
    }
    union = UNION(matches, predictions_of_sets(matches, [2, 1]))
    # Query 1 has both objects equally often, so that the first object counts.
    assert pairs_of(union) == {(0, 0, 1), (0, 1, 0), (0, 2, 0), (1, 3, 2), (1, 0, 2)}
    assert len(union.image) == 9


def test_the_union_of_random_matches_agrees_with_counting_votes():
    rng = random.Random(0)
    sizes, queries = [3, 0, 2], 5
    first = [0, 3, 3]
    for _ in range(20):
        matches = {}
        for name in ("", "_0", "_1", "_enc"):
            pairs = [
                (image, query, first[image] + target)
                for image, size in enumerate(sizes)
                for target, query in enumerate(rng.sample(range(queries), size))
            ]
            matches[name] = match_of(*pairs)
        expected = set()
        queries_of_images = {
            (int(i), int(q)) for match in matches.values() for i, q in zip(match.image, match.query, strict=True)
        }
        for query_of_image in queries_of_images:
            votes = [
                int(t)
                for match in matches.values()
                for i, q, t in zip(*match[:3], strict=True)
                if (i, q) == query_of_image
            ]
            expected.add((*query_of_image, max(sorted(set(votes)), key=votes.count)))
        assert pairs_of(UNION(matches, predictions_of_sets(matches, sizes, queries))) == expected


def test_the_union_is_empty_without_objects():
    union = UNION({"": match_of(), "_0": match_of()}, predictions_of_sets(["", "_0"], [0, 0]))
    assert [len(part) for part in union[:4]] == [0, 0, 0, 0]


def test_losses_of_the_union_are_divided_by_its_size():
    matcher = HungarianMatcher({"bbox": BoxL1Cost()})
    losses = {"loss_class": FocalLoss(), "loss_bbox": BoxL1Loss()}
    weights = {"loss_class": 1.0, "loss_bbox": 5.0}
    targets = random_targets([2, 1])
    outputs = {
        "": random_predictions(2, 6, 4, seed=1),
        "_0": random_predictions(2, 6, 4, seed=2),
        "_one2many": random_predictions(2, 6, 4, seed=3),
    }
    union = MatchUnion(losses=["loss_bbox"], sets=[""])
    criterion = SetCriterion(matcher=matcher, losses=losses, weights=weights, union=union)
    criterion_without_union = SetCriterion(matcher=matcher, losses=losses, weights=weights)
    losses_with_union, losses_without_union = criterion(outputs, targets), criterion_without_union(outputs, targets)
    matches = criterion_without_union.match(outputs, targets)
    assert {pair for name in ("", "_0") for pair in pairs_of_match(matches[name])} != pairs_of_match(matches[""])
    pairs = pairs_of(union(matches, with_targets(outputs, targets)))
    for name in ("", "_0"):
        distances = [(outputs[name].boxes[i, q] - targets.boxes[t]).abs().sum() for i, q, t in pairs]
        assert_close(losses_with_union[f"loss_bbox{name}"], 5 * torch.stack(distances).sum() / len(pairs))
        assert_close(losses_with_union[f"loss_class{name}"], losses_without_union[f"loss_class{name}"])
    assert_close(losses_with_union["loss_bbox_one2many"], losses_without_union["loss_bbox_one2many"])


def pairs_of_match(match):
    return {tuple(map(int, pair)) for pair in zip(*match[:3], strict=True)}


def test_sets_that_cannot_be_joined_raise_an_error():
    outputs = predictions_of_sets(["", "_0"], [1, 1])
    outputs["_0"] = with_targets({"": random_predictions(2, 3)}, random_targets([1, 1]))[""]
    with pytest.raises(ValueError, match="cannot be joined.*same queries"):
        UNION({"": match_of((0, 0, 0)), "_0": match_of((0, 0, 0))}, outputs)
    weighted = Match(*match_of((0, 0, 0))[:3], torch.ones(1))
    with pytest.raises(ValueError, match="pairs no weights"):
        UNION({"": weighted}, predictions_of_sets([""], [1, 1]))
    with pytest.raises(ValueError, match="needs losses and sets"):
        MatchUnion(losses=[], sets=[""])


def test_missing_losses_and_sets_raise_an_error():
    arguments = {
        "matcher": HungarianMatcher({"bbox": BoxL1Cost()}),
        "losses": {"loss_bbox": BoxL1Loss()},
        "weights": {"loss_bbox": 1.0},
    }
    with pytest.raises(ValueError, match="union.losses has 'loss_box'.*loss_bbox"):
        SetCriterion(**arguments, union=MatchUnion(losses=["loss_box"], sets=[""]))
    criterion = SetCriterion(**arguments, union=MatchUnion(losses=["loss_bbox"], sets=["", "_encoder"]))
    with pytest.raises(ValueError, match="union.sets has '_encoder'"):
        criterion({"": random_predictions(1, 4)}, random_targets([2]))


SIZES = [3, 1, 0, 2]  # objects of each image of a batch; two processes get two images each


def dfine_losses(images):
    """D-FINE's losses of some images of the batch, and the gradients of their predictions.

    Self-distillation is left out, because it averages over the queries of each process.
    """
    batch = random_targets(SIZES)
    image_targets = [image_of(batch, index) for index in images]
    labels, boxes = (torch.cat([getattr(image, part) for image in image_targets]) for part in ("labels", "boxes"))
    targets = Targets(labels, boxes, [size for image in image_targets for size in image.sizes])
    leaves, outputs = [], {}
    for seed, name in enumerate(["", "_0", "_pre", "_enc"]):
        batch_predictions = random_predictions(len(SIZES), 6, num_logits=80, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        corners = torch.randn(len(SIZES), 6, 4, 33, generator=generator, dtype=torch.float64)
        initial = random_predictions(len(SIZES), 6, seed=9).boxes
        logits, boxes, corners = (
            value[images].requires_grad_() for value in (batch_predictions.logits, batch_predictions.boxes, corners)
        )
        extra = {"corners": corners, "initial_boxes": initial[images]} if name in ("", "_0") else {}
        leaves += [logits, boxes, *([corners] if extra else [])]
        outputs[name] = Predictions(logits, boxes, extra=extra)
    criterion = instantiate(get_config("projects/dfine/configs/models/dfine_l.py").model.criterion)
    losses = {name: loss for name, loss in criterion(outputs, targets).items() if not name.startswith("loss_ddf")}
    sum(losses.values()).backward()
    return {name: loss.detach() for name, loss in losses.items()}, [leaf.grad for leaf in leaves]


def _save_losses_of_half(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(dfine_losses([2 * rank, 2 * rank + 1]), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@needs_gloo
def test_two_processes_give_the_losses_of_one_process_with_the_whole_batch(tmp_path):
    mp.spawn(_save_losses_of_half, args=(tmp_path,), nprocs=2)
    losses, gradients = dfine_losses(list(range(len(SIZES))))
    assert {"loss_fgl", "loss_fgl_0", "loss_bbox_pre", "loss_giou_enc", "loss_class_0"} <= losses.keys()
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for name, loss in losses.items():
        assert_close((halves[0][0][name] + halves[1][0][name]) / 2, loss)
    # Processes average their gradients.
    for expected, first, second in zip(gradients, *(half[1] for half in halves), strict=True):
        assert expected.any()
        assert_close(torch.cat([first, second]) / 2, expected)
