"""What mmdetection's losses of DETRs do otherwise than the papers': what they divide by, and boxes in pixels."""

import copy
import math
import re
import shlex
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch.testing import assert_close

from detrex_lite.config import LazyConfig, get_config, instantiate
from detrex_lite.errors import NonFiniteError
from detrex_lite.modeling import (
    BoxL1Loss,
    CrossEntropyLoss,
    FocalLoss,
    GIoUCost,
    GIoULoss,
    LayerOutput,
    Match,
    MatchUnion,
    Predictions,
    Targets,
)
from detrex_lite.modeling.criterion import set_criterion
from detrex_lite.testing import SMALL, build, changed, make_batch, make_input, without_dropout
from tests.test_distributed import needs_gloo

from .helpers import image_of, random_predictions, random_targets

# The options of docs/fidelity.md, which are compared with these below
PIXELS = {"losses.loss_giou.in_pixels": True, "matcher.costs.giou.in_pixels": True}
OPTIONS = {
    "detr": {"divide_by": "matches", "losses.loss_class.least": 1.0, **PIXELS},
    "detr over processes": {
        "divide_by": "matches",
        "losses.loss_class.least": 1.0,
        "over_processes": {"loss_class": True},
        **PIXELS,
    },
    "conditional_detr": {"divide_by": "matches", "over_processes": {"loss_class": False}, **PIXELS},
    "dino": {"divide_by": "matches", **PIXELS},
}
WEIGHTS = {"detr": (1, 5, 2), "conditional_detr": (2, 5, 2), "dino": (1, 5, 2)}
IMAGE_SIZES = [(96, 64), (640, 480), (50, 200), (33, 77)]  # width, height


def config(recipe, **changes):
    """Of the criterion."""
    project = recipe.split()[0]
    cfg = get_config(f"projects/{project}/configs/models/{project}_r50.py").model.criterion
    return changed(cfg, changes)


def criterion_of(recipe):
    return instantiate(config(recipe, **OPTIONS[recipe]))


def batch_of(sizes, seed=0):
    """Objects that know the sizes of their images."""
    targets = random_targets(sizes, seed=seed)
    of_object = [size for size, number in zip(IMAGE_SIZES, sizes, strict=False) for _ in range(number)]
    image_size = torch.tensor(of_object, dtype=torch.float64).reshape(-1, 2)
    return Targets(targets.labels, targets.boxes, targets.sizes, {"image_size": image_size})


def part_of(targets, images):
    """The objects of some of the images."""
    ours = [image_of(targets, index) for index in images]
    first = [sum(targets.sizes[:index]) for index in images]
    rows = [torch.arange(start, start + targets.sizes[index]) for index, start in zip(images, first, strict=True)]
    extra = {name: value[torch.cat(rows)] for name, value in targets.extra.items()}
    labels, boxes = (torch.cat([getattr(one, name) for one in ours]) for name in ("labels", "boxes"))
    return Targets(labels, boxes, [size for one in ours for size in one.sizes], extra)


def outputs_of(recipe, images, targets, queries=4, num_images=4):
    """Two layers, and denoising in which each object has so many queries, for some of the images."""
    logits = 5 if recipe.startswith("detr") else 4
    outputs = {}
    for seed, name in enumerate(["", "_0"]):
        whole = random_predictions(num_images, queries, logits, seed=seed)
        outputs[name] = Predictions(whole.logits[images], whole.boxes[images])
    if recipe == "dino":
        # Processes fill up denoising queries to the same number by groups of their own.
        groups = 6 // max(targets.sizes)
        pairs = [
            (image, group * max(targets.sizes) + number, sum(targets.sizes[:image]) + number)
            for image, size in enumerate(targets.sizes)
            for group in range(groups)
            for number in range(size)
        ]
        whole = random_predictions(num_images, 6, logits, seed=5)
        match = Match(*torch.tensor(pairs).T)
        outputs["_dn"] = Predictions(whole.logits[images], whole.boxes[images], match=match, repeats=groups)
    for one in outputs.values():
        one.logits.requires_grad_()
        one.boxes.requires_grad_()
    return outputs


def giou(a, b, scale, least):
    """Of two boxes cxcywh, in pixels of an image (width, height)."""
    (left_a, top_a, right_a, bottom_a), (left_b, top_b, right_b, bottom_b) = (
        (
            (box[0] - box[2] / 2) * scale[0],
            (box[1] - box[3] / 2) * scale[1],
            (box[0] + box[2] / 2) * scale[0],
            (box[1] + box[3] / 2) * scale[1],
        )
        for box in (a, b)
    )
    across = max(min(right_a, right_b) - max(left_a, left_b), a.new_zeros(()))
    down = max(min(bottom_a, bottom_b) - max(top_a, top_b), a.new_zeros(()))
    areas = (right_a - left_a) * (bottom_a - top_a) + (right_b - left_b) * (bottom_b - top_b)
    union = max(areas - across * down, a.new_tensor(least))
    hull = (max(right_a, right_b) - min(left_a, left_b)) * (max(bottom_a, bottom_b) - min(top_a, top_b))
    hull = max(hull, a.new_tensor(least))
    return across * down / union - (hull - union) / hull


def sums_by_loops(recipe, outputs, targets, matches):
    """Name of a set -> (class, box and overlap sums of one process, matched queries, other queries)."""
    found = {}
    for name, one in outputs.items():
        pairs = list(zip(*(part.tolist() for part in matches[name][:3]), strict=True))
        object_of = {(image, query): target for image, query, target in pairs}
        of_class = []
        for image, scores in enumerate(one.logits):
            for query, logits in enumerate(scores):
                target = object_of.get((image, query))
                if recipe.startswith("detr"):
                    label = 4 if target is None else int(targets.labels[target])
                    of_class.append(-logits.log_softmax(0)[label] * (0.1 if target is None else 1.0))
                    continue
                for label, logit in enumerate(logits):
                    p = logit.sigmoid()
                    if target is not None and label == targets.labels[target]:
                        of_class.append(-0.25 * (1 - p) ** 2 * p.log())
                    else:
                        of_class.append(-0.75 * p**2 * (1 - p).log())
        distances, overlaps = [one.boxes.sum() * 0], [one.boxes.sum() * 0]
        for image, query, target in pairs:
            box, wanted = one.boxes[image, query], targets.boxes[target]
            distances.append((box - wanted).abs().sum())
            overlaps.append(1 - giou(box, wanted, targets.extra["image_size"][target], 1e-6))
        others = one.logits.shape[0] * one.logits.shape[1] - len(pairs)
        found[name] = *(torch.stack(values).sum() for values in (of_class, distances, overlaps)), len(pairs), others
    return found


def losses_by_loops(recipe, of_processes):
    """The losses of each process, from `sums_by_loops` of each."""
    weights, number = WEIGHTS[recipe.split()[0]], len(of_processes)
    losses = []
    for own in of_processes:
        losses.append({})
        for name, (of_class, distances, overlaps, matched, others) in own.items():
            mean = max(sum(process[name][3] for process in of_processes) / number, 1)
            if recipe == "detr":
                divisor = max(matched + 0.1 * others, 1)
            elif recipe == "detr over processes":
                divisor = max(sum(process[name][3] + 0.1 * process[name][4] for process in of_processes) / number, 1)
            else:
                divisor = max(matched, 1) if recipe == "conditional_detr" else mean
            losses[-1][f"loss_class{name}"] = weights[0] * of_class / divisor
            losses[-1][f"loss_bbox{name}"] = weights[1] * distances / mean
            losses[-1][f"loss_giou{name}"] = weights[2] * overlaps / mean
    return losses


class Processes:
    """Several processes one after the other: each runs twice, the second time knowing what all exchange."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch

    def run(self, *processes):
        sent = [[] for _ in processes]
        for process, mine in zip(processes, sent, strict=True):
            self._exchange(lambda value, mine=mine: mine.append(value.detach().clone()) or value)
            process()
        assert len({tuple(value.shape for value in mine) for mine in sent}) == 1
        results = []
        for process in processes:
            means = (torch.stack(values).mean(0) for values in zip(*sent, strict=True))
            self._exchange(lambda value, means=means: next(means))
            results.append(process())
        return results

    def _exchange(self, mean):
        self.monkeypatch.setattr(set_criterion, "mean_over_processes", mean)


# More objects than queries in an image; a process without objects; and no objects at all.
SIZES = {"many": [6, 1, 0, 2], "nobody there": [0, 0, 3, 2], "nobody at all": [0, 0, 0, 0]}
CASES = [(recipe, sizes) for recipe in OPTIONS for sizes in SIZES if recipe != "dino" or sizes == "many"]


@pytest.mark.parametrize(("recipe", "sizes"), CASES)
@pytest.mark.filterwarnings("ignore:an image has 6 objects")
def test_losses_of_two_processes_by_their_formulas(recipe, sizes, monkeypatch):
    batch, halves = batch_of(SIZES[sizes]), ([0, 1], [2, 3])
    criterion = criterion_of(recipe)
    targets = [part_of(batch, images) for images in halves]
    outputs = [outputs_of(recipe, images, own) for images, own in zip(halves, targets, strict=True)]
    got = Processes(monkeypatch).run(
        *(lambda own=own, there=there: criterion(own, there) for own, there in zip(outputs, targets, strict=True))
    )
    wanted = losses_by_loops(
        recipe,
        [
            sums_by_loops(recipe, own, there, criterion.match(own, there))
            for own, there in zip(outputs, targets, strict=True)
        ],
    )
    for mine, formula, own in zip(got, wanted, outputs, strict=True):
        assert mine.keys() == formula.keys()
        for name, value in formula.items():
            assert_close(mine[name], value, msg=lambda text, name=name: f"{name}: {text}")
        leaves = [leaf for one in own.values() for leaf in (one.logits, one.boxes)]
        mine, formula = (torch.autograd.grad(sum(losses.values()), leaves) for losses in (mine, formula))
        assert any(gradient.any() for gradient in mine)
        assert_close(mine, formula)


def losses_and_gradients(recipe, images):
    batch = batch_of(SIZES["many"])
    targets = part_of(batch, images)
    outputs = outputs_of(recipe, images, targets, queries=6)
    losses = criterion_of(recipe)(outputs, targets)
    sum(losses.values()).backward()
    gradients = [leaf.grad for one in outputs.values() for leaf in (one.logits, one.boxes)]
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def _save_losses_of_half(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for recipe in ("detr over processes", "dino"):
        torch.save(losses_and_gradients(recipe, [2 * rank, 2 * rank + 1]), folder / f"{recipe} {rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@needs_gloo
def test_two_real_processes_weigh_queries_as_one_process_with_the_whole_batch(tmp_path):
    mp.spawn(_save_losses_of_half, args=(tmp_path,), nprocs=2)
    losses, gradients = losses_and_gradients("detr over processes", [0, 1, 2, 3])
    halves = [torch.load(tmp_path / f"detr over processes {rank}.pt") for rank in (0, 1)]
    for name, loss in losses.items():
        assert_close((halves[0][0][name] + halves[1][0][name]) / 2, loss)
    for whole, first, second in zip(gradients, *(half[1] for half in halves), strict=True):
        assert whole.any()
        assert_close(torch.cat([first, second]) / 2, whole)
    # Denoising has one group in the first process and three in the second one, and nine pairs by which both divide.
    halves = [torch.load(tmp_path / f"dino {rank}.pt")[0] for rank in (0, 1)]
    batch = batch_of(SIZES["many"])
    for rank, images in enumerate(([0, 1], [2, 3])):
        targets = part_of(batch, images)
        one = outputs_of("dino", images, targets, queries=6)["_dn"]
        distances = (one.boxes[one.match.image, one.match.query] - targets.boxes[one.match.target]).abs().sum()
        assert len(one.match.query) == (7, 6)[rank]
        assert_close(halves[rank]["loss_bbox_dn"], 5 * distances.detach() / 6.5)


# Where both are the same


@pytest.mark.parametrize("recipe", ["detr", "detr over processes", "conditional_detr", "dino"])
def test_where_both_coincide_gradients_are_those_of_the_papers(recipe):
    """In one process, with objects, no more of them than queries, and no eps."""
    batch, images = batch_of([2, 1, 0, 2]), [0, 1, 2, 3]
    papers = instantiate(config(recipe, **{"losses.loss_giou.eps": 0.0, "matcher.costs.giou.eps": 0.0}))
    results = []
    for criterion in (papers, criterion_of(recipe)):
        outputs = outputs_of(recipe, images, batch)
        losses = criterion(outputs, batch)
        sum(losses.values()).backward()
        results.append((losses, [leaf.grad for one in outputs.values() for leaf in (one.logits, one.boxes)]))
    assert_close(results[0], results[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("recipe", ["detr", "dino"])
def test_whole_detectors_learn_the_same_where_both_coincide(recipe):
    gradients = []
    for options in ({"losses.loss_giou.eps": 0.0, "matcher.costs.giou.eps": 0.0}, OPTIONS[recipe]):
        cfg = get_config(f"projects/{recipe}/configs/models/{recipe}_r50.py").model
        changes = {f"criterion.{name}": value for name, value in options.items()}
        model = build(without_dropout(changed(cfg, {**SMALL, **changes}))).double().train()
        torch.manual_seed(3)  # of the noise
        losses = model(make_batch())
        sum(losses.values()).backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
    assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-12)


# Boxes in pixels


def test_overlaps_in_pixels_by_their_formula():
    targets = batch_of([2, 1])
    predictions = random_predictions(2, 3)
    predictions.boxes[0, 0, 2:] = 1e-3  # smaller than eps
    targets.boxes[0] = predictions.boxes[0, 0]
    eps = 5.0
    cost = GIoUCost(weight=3.0, eps=eps, in_pixels=True)
    output = LayerOutput(predictions.logits, predictions.boxes, {})
    got = cost(output, targets.padded())
    for image, (size, first) in enumerate(((2, 0), (1, 2))):
        for query, box in enumerate(predictions.boxes[image]):
            for number in range(size):
                wanted = giou(box, targets.boxes[first + number], IMAGE_SIZES[image], eps)
                assert_close(got[image, query, number], -3 * wanted)
    assert_close(got[0, 0, 0].item(), -3 * (1e-6 * 96 * 64) / eps)  # of a box and itself
    assert torch.isfinite(got).all()
    assert not torch.allclose(got, GIoUCost(weight=3.0, eps=eps)(output, targets.padded()))
    assert_close(
        GIoUCost(eps=0.0, in_pixels=True)(output, targets.padded())[0], GIoUCost(eps=0.0)(output, targets.padded())[0]
    )
    assert cost(output, batch_of([0, 0]).padded()).shape == (2, 3, 0)


def test_inputs_tell_the_sizes_of_images_if_the_criterion_asks_for_them():
    cfg = get_config("projects/detr/configs/models/detr_r50.py").model
    batch = [make_input(40, 60, [[4.0, 8, 40, 30], [1, 2, 9, 9]], [1, 0]), make_input(30, 20, [[1.0, 2, 9, 9]], [2])]
    for changes, wanted in (
        ({}, None),
        ({"criterion.losses.loss_giou.in_pixels": True}, [[60, 40], [60, 40], [20, 30]]),
        ({"criterion.matcher.costs.giou.in_pixels": True}, [[60, 40], [60, 40], [20, 30]]),
    ):
        model = build(changed(copy.deepcopy(cfg), {**SMALL, **changes}))
        targets = model.targets(batch, model.preprocess(batch, as_published=True))
        got = targets.extra.get("image_size")
        assert (got if got is None else got.tolist()) == wanted


def test_pixels_of_unknown_images_are_refused():
    without, predictions = random_targets([1]), random_predictions(1, 3)
    criterion = instantiate(config("detr", **{"losses.loss_giou.in_pixels": True}))
    assert criterion.needs_image_sizes
    with pytest.raises(ValueError, match="in pixels.*'image_size'.*with_image_sizes=True"):
        criterion({"": predictions}, without)
    with pytest.raises(ValueError, match="in pixels.*'image_size'"):
        GIoUCost(in_pixels=True)(LayerOutput(predictions.logits, predictions.boxes, {}), without.padded())


def test_the_documented_overrides_are_these_options():
    text = (Path(__file__).parents[2] / "docs/fidelity.md").read_text()
    lines = re.search(r'MMDETECTION="(.+)"\n((?:.*\n)+?)```', text)
    commands = [
        shlex.split(line) for line in lines[2].replace("\\\n", "").splitlines() if line.startswith("detrex-lite ")
    ]
    assert len(commands) == len(OPTIONS)
    recipes = {"dino": "dino", "dab_detr": "conditional_detr", "detr": "detr"}
    for _, _, _, path, common, *own in commands:
        assert common == "$MMDETECTION"
        cfg = LazyConfig.apply_overrides(LazyConfig.load(path), [*lines[1].split(), *own])
        recipe = recipes[path.split("/")[1]]
        if any(override.endswith("{loss_class: True}") for override in own):
            recipe = "detr over processes"
        for option, value in OPTIONS[recipe].items():
            assert OmegaConf.select(cfg.model.criterion, option) == value
        instantiate(cfg.model.criterion)


# What else may go wrong


def criterion_with(**arguments):
    losses = {"loss_class": FocalLoss(), "loss_bbox": BoxL1Loss()}
    matcher = instantiate(config("dino").matcher)
    return set_criterion.SetCriterion(matcher=matcher, losses=losses, weights=dict.fromkeys(losses, 1.0), **arguments)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({"divide_by": "match"}, "divide_by='match'; did you mean 'matches'"),
        ({"divide_by": "boxes of all"}, "divide_by='boxes of all'; choices: objects, matches"),
        ({"over_processes": {"loss_clas": True}}, "over_processes has 'loss_clas'.*'loss_class'"),
        ({"over_processes": {"loss_class": "no"}}, "over_processes.loss_class='no' must be True or False"),
        (
            {"over_processes": {"loss_bbox": False}, "union": MatchUnion(losses=["loss_bbox"], sets=[""])},
            "over_processes.loss_bbox=False, but union.losses has 'loss_bbox'",
        ),
    ],
)
def test_options_of_the_criterion_that_mean_nothing_are_refused(arguments, shown):
    with pytest.raises(ValueError, match=shown):
        criterion_with(**arguments)


def test_negative_numbers_are_refused():
    for part, arguments, shown in (
        (CrossEntropyLoss, {"eos_coef": -0.1}, "eos_coef=-0.1"),
        (CrossEntropyLoss, {"least": -1}, "least=-1"),
        (GIoULoss, {"eps": -1e-6}, "eps=-1e-06"),
        (GIoUCost, {"eps": -1e-6}, "eps=-1e-06"),
    ):
        with pytest.raises(ValueError, match=shown):
            part(**arguments)


def test_what_own_losses_compare_is_known():
    own = {"_enc": {"loss_bbox": GIoULoss(in_pixels=True)}}
    assert not criterion_with().needs_image_sizes
    assert criterion_with(own_losses=own).needs_image_sizes


@pytest.mark.parametrize("divide_by", ["objects", "matches"])
def test_a_process_that_cannot_match_keeps_nobody_waiting(divide_by, monkeypatch):
    union = MatchUnion(losses=["loss_bbox"], sets=[""])
    criterion = criterion_with(divide_by=divide_by, union=union, over_processes={"loss_class": True})
    targets, sent = random_targets([1, 2]), []
    monkeypatch.setattr(
        set_criterion, "mean_over_processes", lambda value: sent.append((value.shape, value.dtype)) or value
    )
    outputs = {name: random_predictions(2, 4, 4, seed=seed) for seed, name in enumerate(("", "_enc"))}
    criterion(outputs, targets)
    good, sent = sent, []
    outputs["_enc"].logits[1] = math.nan
    with pytest.raises(NonFiniteError):
        criterion(outputs, targets)
    assert sent == good


def test_own_numbers_may_divide_losses_of_the_papers(monkeypatch):
    processes = Processes(monkeypatch)
    criterion = criterion_with(over_processes={"loss_bbox": False})
    batch = random_targets([3, 1])
    parts = [image_of(batch, 0), image_of(batch, 1)]
    predictions = random_predictions(1, 5, 4)
    got = processes.run(*(lambda own=own: criterion({"": predictions}, own) for own in parts))
    for losses, own in zip(got, parts, strict=True):
        match = criterion.match({"": predictions}, own)[""]
        distances = (predictions.boxes[0, match.query] - own.boxes[match.target]).abs().sum()
        assert_close(losses["loss_bbox"], distances / len(own))
        positives = F.one_hot(own.labels, 4)
        wanted = torch.zeros(5, 4, dtype=torch.float64)
        wanted[match.query] = positives[match.target].double()
        p = predictions.logits[0].sigmoid()
        focal = -0.25 * wanted * (1 - p) ** 2 * p.log() - 0.75 * (1 - wanted) * p**2 * (1 - p).log()
        assert_close(losses["loss_class"], focal.sum() / 2)
