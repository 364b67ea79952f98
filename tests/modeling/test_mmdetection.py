"""Losses as in mmdetection, which differ from the papers in their divisors and in computing GIoU in pixels."""

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

# The options of docs/fidelity.md; a test below compares them
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
    """The config of the criterion of a recipe."""
    project = recipe.split()[0]
    cfg = get_config(f"projects/{project}/configs/models/{project}_r50.py").model.criterion
    return changed(cfg, changes)


def criterion_of(recipe):
    return instantiate(config(recipe, **OPTIONS[recipe]))


def batch_of(sizes, seed=0):
    """Objects with the sizes of their images."""
    targets = random_targets(sizes, seed=seed)
    size_of_objects = [size for size, number in zip(IMAGE_SIZES, sizes, strict=False) for _ in range(number)]
    image_size = torch.tensor(size_of_objects, dtype=torch.float64).reshape(-1, 2)
    return Targets(targets.labels, targets.boxes, targets.sizes, {"image_size": image_size})


def part_of(targets, images):
    """The objects of some images of a batch."""
    image_targets = [image_of(targets, index) for index in images]
    first = [sum(targets.sizes[:index]) for index in images]
    rows = [torch.arange(start, start + targets.sizes[index]) for index, start in zip(images, first, strict=True)]
    extra = {name: value[torch.cat(rows)] for name, value in targets.extra.items()}
    labels, boxes = (torch.cat([getattr(image, name) for image in image_targets]) for name in ("labels", "boxes"))
    return Targets(labels, boxes, [size for image in image_targets for size in image.sizes], extra)


def outputs_of(recipe, images, targets, queries=4, num_images=4):
    """The outputs of two layers, and denoising queries for DINO, for some images of a batch."""
    logits = 5 if recipe.startswith("detr") else 4
    outputs = {}
    for seed, name in enumerate(["", "_0"]):
        batch_predictions = random_predictions(num_images, queries, logits, seed=seed)
        outputs[name] = Predictions(batch_predictions.logits[images], batch_predictions.boxes[images])
    if recipe == "dino":
        # Each process has as many groups as fit into the same number of denoising queries.
        groups = 6 // max(targets.sizes)
        pairs = [
            (image, group * max(targets.sizes) + number, sum(targets.sizes[:image]) + number)
            for image, size in enumerate(targets.sizes)
            for group in range(groups)
            for number in range(size)
        ]
        batch_predictions = random_predictions(num_images, 6, logits, seed=5)
        match = Match(*torch.tensor(pairs).T)
        outputs["_dn"] = Predictions(
            batch_predictions.logits[images], batch_predictions.boxes[images], match=match, repeats=groups
        )
    for predictions in outputs.values():
        predictions.logits.requires_grad_()
        predictions.boxes.requires_grad_()
    return outputs


def giou(a, b, scale, least):
    """GIoU of two CXCYWH boxes, in pixels of an image of size `scale` (width, height)."""
    (left_a, top_a, right_a, bottom_a), (left_b, top_b, right_b, bottom_b) = (
        (
            (box[0] - box[2] / 2) * scale[0],
            (box[1] - box[3] / 2) * scale[1],
            (box[0] + box[2] / 2) * scale[0],
            (box[1] + box[3] / 2) * scale[1],
        )
        for box in (a, b)
    )
    overlap_width = max(min(right_a, right_b) - max(left_a, left_b), a.new_zeros(()))
    overlap_height = max(min(bottom_a, bottom_b) - max(top_a, top_b), a.new_zeros(()))
    areas = (right_a - left_a) * (bottom_a - top_a) + (right_b - left_b) * (bottom_b - top_b)
    union = max(areas - overlap_width * overlap_height, a.new_tensor(least))
    hull = (max(right_a, right_b) - min(left_a, left_b)) * (max(bottom_a, bottom_b) - min(top_a, top_b))
    hull = max(hull, a.new_tensor(least))
    return overlap_width * overlap_height / union - (hull - union) / hull


def sums_in_loops(recipe, outputs, targets, matches):
    """Name of a set -> (sums of class, box and GIoU losses, matched queries, unmatched queries) of one process."""
    sums = {}
    for name, predictions in outputs.items():
        pairs = list(zip(*(part.tolist() for part in matches[name][:3]), strict=True))
        object_of = {(image, query): target for image, query, target in pairs}
        class_losses = []
        for image, scores in enumerate(predictions.logits):
            for query, logits in enumerate(scores):
                target = object_of.get((image, query))
                if recipe.startswith("detr"):
                    label = 4 if target is None else int(targets.labels[target])
                    class_losses.append(-logits.log_softmax(0)[label] * (0.1 if target is None else 1.0))
                    continue
                for label, logit in enumerate(logits):
                    p = logit.sigmoid()
                    if target is not None and label == targets.labels[target]:
                        class_losses.append(-0.25 * (1 - p) ** 2 * p.log())
                    else:
                        class_losses.append(-0.75 * p**2 * (1 - p).log())
        distances, giou_losses = [predictions.boxes.sum() * 0], [predictions.boxes.sum() * 0]
        for image, query, target in pairs:
            box, target_box = predictions.boxes[image, query], targets.boxes[target]
            distances.append((box - target_box).abs().sum())
            giou_losses.append(1 - giou(box, target_box, targets.extra["image_size"][target], 1e-6))
        unmatched = predictions.logits.shape[0] * predictions.logits.shape[1] - len(pairs)
        sums[name] = (
            *(torch.stack(values).sum() for values in (class_losses, distances, giou_losses)),
            len(pairs),
            unmatched,
        )
    return sums


def losses_in_loops(recipe, sums_of_processes):
    """The losses of each process, from the `sums_in_loops` of all processes."""
    weights, number = WEIGHTS[recipe.split()[0]], len(sums_of_processes)
    losses = []
    for sums in sums_of_processes:
        losses.append({})
        for name, (class_sum, box_sum, giou_sum, matched, unmatched) in sums.items():
            mean = max(sum(process[name][3] for process in sums_of_processes) / number, 1)
            if recipe == "detr":
                divisor = max(matched + 0.1 * unmatched, 1)
            elif recipe == "detr over processes":
                divisor = max(
                    sum(process[name][3] + 0.1 * process[name][4] for process in sums_of_processes) / number, 1
                )
            else:
                divisor = max(matched, 1) if recipe == "conditional_detr" else mean
            losses[-1][f"loss_class{name}"] = weights[0] * class_sum / divisor
            losses[-1][f"loss_bbox{name}"] = weights[1] * box_sum / mean
            losses[-1][f"loss_giou{name}"] = weights[2] * giou_sum / mean
    return losses


class Processes:
    """Simulates processes in turn: each runs twice, first to record its values and then to receive their means."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch

    def run(self, *processes):
        sent = [[] for _ in processes]
        for process, own_values in zip(processes, sent, strict=True):
            self._exchange(lambda value, own_values=own_values: own_values.append(value.detach().clone()) or value)
            process()
        assert len({tuple(value.shape for value in own_values) for own_values in sent}) == 1
        results = []
        for process in processes:
            means = (torch.stack(values).mean(0) for values in zip(*sent, strict=True))
            self._exchange(lambda value, means=means: next(means))
            results.append(process())
        return results

    def _exchange(self, mean):
        self.monkeypatch.setattr(set_criterion, "mean_over_processes", mean)


# An image with more objects than queries, a process without objects, and a batch without objects.
SIZES = {"many": [6, 1, 0, 2], "one process without objects": [0, 0, 3, 2], "no objects": [0, 0, 0, 0]}
CASES = [(recipe, sizes) for recipe in OPTIONS for sizes in SIZES if recipe != "dino" or sizes == "many"]


@pytest.mark.parametrize(("recipe", "sizes"), CASES)
@pytest.mark.filterwarnings("ignore:an image has 6 objects")
def test_losses_of_two_processes_follow_their_formulas(recipe, sizes, monkeypatch):
    batch, halves = batch_of(SIZES[sizes]), ([0, 1], [2, 3])
    criterion = criterion_of(recipe)
    targets = [part_of(batch, images) for images in halves]
    outputs = [
        outputs_of(recipe, images, process_targets) for images, process_targets in zip(halves, targets, strict=True)
    ]
    actual = Processes(monkeypatch).run(
        *(
            lambda process_outputs=process_outputs, process_targets=process_targets: criterion(
                process_outputs, process_targets
            )
            for process_outputs, process_targets in zip(outputs, targets, strict=True)
        )
    )
    expected = losses_in_loops(
        recipe,
        [
            sums_in_loops(recipe, process_outputs, process_targets, criterion.match(process_outputs, process_targets))
            for process_outputs, process_targets in zip(outputs, targets, strict=True)
        ],
    )
    for actual_losses, expected_losses, process_outputs in zip(actual, expected, outputs, strict=True):
        assert actual_losses.keys() == expected_losses.keys()
        for name, value in expected_losses.items():
            assert_close(actual_losses[name], value, msg=lambda text, name=name: f"{name}: {text}")
        leaves = [leaf for predictions in process_outputs.values() for leaf in (predictions.logits, predictions.boxes)]
        actual_gradients, expected_gradients = (
            torch.autograd.grad(sum(losses.values()), leaves) for losses in (actual_losses, expected_losses)
        )
        assert any(gradient.any() for gradient in actual_gradients)
        assert_close(actual_gradients, expected_gradients)


def losses_and_gradients(recipe, images):
    batch = batch_of(SIZES["many"])
    targets = part_of(batch, images)
    outputs = outputs_of(recipe, images, targets, queries=6)
    losses = criterion_of(recipe)(outputs, targets)
    sum(losses.values()).backward()
    gradients = [leaf.grad for predictions in outputs.values() for leaf in (predictions.logits, predictions.boxes)]
    return {name: loss.detach() for name, loss in losses.items()}, gradients


def _save_losses_of_half(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for recipe in ("detr over processes", "dino"):
        torch.save(losses_and_gradients(recipe, [2 * rank, 2 * rank + 1]), folder / f"{recipe} {rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@needs_gloo
def test_two_real_processes_give_the_losses_of_one_process_with_the_whole_batch(tmp_path):
    mp.spawn(_save_losses_of_half, args=(tmp_path,), nprocs=2)
    losses, gradients = losses_and_gradients("detr over processes", [0, 1, 2, 3])
    halves = [torch.load(tmp_path / f"detr over processes {rank}.pt") for rank in (0, 1)]
    for name, loss in losses.items():
        assert_close((halves[0][0][name] + halves[1][0][name]) / 2, loss)
    for expected, first, second in zip(gradients, *(half[1] for half in halves), strict=True):
        assert expected.any()
        assert_close(torch.cat([first, second]) / 2, expected)
    # Denoising has one group and 7 pairs in the first process, three groups and 6 pairs in the second process.
    halves = [torch.load(tmp_path / f"dino {rank}.pt")[0] for rank in (0, 1)]
    batch = batch_of(SIZES["many"])
    for rank, images in enumerate(([0, 1], [2, 3])):
        targets = part_of(batch, images)
        output = outputs_of("dino", images, targets, queries=6)["_dn"]
        distances = (
            (output.boxes[output.match.image, output.match.query] - targets.boxes[output.match.target]).abs().sum()
        )
        assert len(output.match.query) == (7, 6)[rank]
        assert_close(halves[rank]["loss_bbox_dn"], 5 * distances.detach() / 6.5)


# Cases in which mmdetection and the papers agree


@pytest.mark.parametrize("recipe", ["detr", "detr over processes", "conditional_detr", "dino"])
def test_gradients_agree_with_the_papers_where_both_divisors_agree(recipe):
    """Both agree in one process, with objects, no more objects than queries, and no eps."""
    batch, images = batch_of([2, 1, 0, 2]), [0, 1, 2, 3]
    paper_criterion = instantiate(config(recipe, **{"losses.loss_giou.eps": 0.0, "matcher.costs.giou.eps": 0.0}))
    results = []
    for criterion in (paper_criterion, criterion_of(recipe)):
        outputs = outputs_of(recipe, images, batch)
        losses = criterion(outputs, batch)
        sum(losses.values()).backward()
        results.append(
            (
                losses,
                [leaf.grad for output in outputs.values() for leaf in (output.logits, output.boxes)],
            )
        )
    assert_close(results[0], results[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("recipe", ["detr", "dino"])
def test_gradients_of_detectors_agree_with_the_papers_where_both_divisors_agree(recipe):
    gradients = []
    for options in ({"losses.loss_giou.eps": 0.0, "matcher.costs.giou.eps": 0.0}, OPTIONS[recipe]):
        cfg = get_config(f"projects/{recipe}/configs/models/{recipe}_r50.py").model
        changes = {f"criterion.{name}": value for name, value in options.items()}
        model = build(without_dropout(changed(cfg, {**SMALL, **changes}))).double().train()
        torch.manual_seed(3)  # the same denoising noise
        losses = model(make_batch())
        sum(losses.values()).backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
    assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-12)


# Boxes in pixels


def test_giou_costs_in_pixels_follow_their_formula():
    targets = batch_of([2, 1])
    predictions = random_predictions(2, 3)
    predictions.boxes[0, 0, 2:] = 1e-3  # smaller than eps
    targets.boxes[0] = predictions.boxes[0, 0]
    eps = 5.0
    cost = GIoUCost(weight=3.0, eps=eps, in_pixels=True)
    output = LayerOutput(predictions.logits, predictions.boxes, {})
    costs = cost(output, targets.padded())
    for image, (size, first) in enumerate(((2, 0), (1, 2))):
        for query, box in enumerate(predictions.boxes[image]):
            for number in range(size):
                expected = giou(box, targets.boxes[first + number], IMAGE_SIZES[image], eps)
                assert_close(costs[image, query, number], -3 * expected)
    assert_close(costs[0, 0, 0].item(), -3 * (1e-6 * 96 * 64) / eps)  # of a box with itself
    assert torch.isfinite(costs).all()
    assert not torch.allclose(costs, GIoUCost(weight=3.0, eps=eps)(output, targets.padded()))
    assert_close(
        GIoUCost(eps=0.0, in_pixels=True)(output, targets.padded())[0], GIoUCost(eps=0.0)(output, targets.padded())[0]
    )
    assert cost(output, batch_of([0, 0]).padded()).shape == (2, 3, 0)


def test_targets_have_image_sizes_if_the_criterion_needs_them():
    cfg = get_config("projects/detr/configs/models/detr_r50.py").model
    batch = [make_input(40, 60, [[4.0, 8, 40, 30], [1, 2, 9, 9]], [1, 0]), make_input(30, 20, [[1.0, 2, 9, 9]], [2])]
    for changes, expected in (
        ({}, None),
        ({"criterion.losses.loss_giou.in_pixels": True}, [[60, 40], [60, 40], [20, 30]]),
        ({"criterion.matcher.costs.giou.in_pixels": True}, [[60, 40], [60, 40], [20, 30]]),
    ):
        model = build(changed(copy.deepcopy(cfg), {**SMALL, **changes}))
        targets = model.targets(batch, model.preprocess(batch, as_published=True))
        actual = targets.extra.get("image_size")
        assert (actual if actual is None else actual.tolist()) == expected


def test_losses_in_pixels_without_image_sizes_raise_an_error():
    targets_without_sizes, predictions = random_targets([1]), random_predictions(1, 3)
    criterion = instantiate(config("detr", **{"losses.loss_giou.in_pixels": True}))
    assert criterion.needs_image_sizes
    with pytest.raises(ValueError, match="in pixels.*'image_size'.*with_image_sizes=True"):
        criterion({"": predictions}, targets_without_sizes)
    with pytest.raises(ValueError, match="in pixels.*'image_size'"):
        GIoUCost(in_pixels=True)(LayerOutput(predictions.logits, predictions.boxes, {}), targets_without_sizes.padded())


def test_the_documented_overrides_give_the_tested_options():
    text = (Path(__file__).parents[2] / "docs/fidelity.md").read_text()
    lines = re.search(r'MMDETECTION="(.+)"\n((?:.*\n)+?)```', text)
    commands = [
        shlex.split(line) for line in lines[2].replace("\\\n", "").splitlines() if line.startswith("detrex-lite ")
    ]
    assert len(commands) == len(OPTIONS)
    recipes = {"dino": "dino", "dab_detr": "conditional_detr", "detr": "detr"}
    for _, _, path, common, *overrides in commands:
        assert common == "$MMDETECTION"
        cfg = LazyConfig.apply_overrides(LazyConfig.load(path), [*lines[1].split(), *overrides])
        recipe = recipes[path.split("/")[1]]
        if any(override.endswith("{loss_class: True}") for override in overrides):
            recipe = "detr over processes"
        for option, value in OPTIONS[recipe].items():
            assert OmegaConf.select(cfg.model.criterion, option) == value
        instantiate(cfg.model.criterion)


# Errors and remaining options


def criterion_with(**arguments):
    losses = {"loss_class": FocalLoss(), "loss_bbox": BoxL1Loss()}
    matcher = instantiate(config("dino").matcher)
    return set_criterion.SetCriterion(matcher=matcher, losses=losses, weights=dict.fromkeys(losses, 1.0), **arguments)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ({"divide_by": "match"}, "divide_by='match'.*'matches'"),
        ({"divide_by": "boxes of all"}, "divide_by='boxes of all'.*objects, matches"),
        ({"over_processes": {"loss_clas": True}}, "over_processes has 'loss_clas'.*'loss_class'"),
        ({"over_processes": {"loss_class": "no"}}, "over_processes.loss_class='no'.*True or False"),
        (
            {"over_processes": {"loss_bbox": False}, "union": MatchUnion(losses=["loss_bbox"], sets=[""])},
            "over_processes.loss_bbox=False.*union.losses has 'loss_bbox'",
        ),
    ],
)
def test_invalid_options_of_the_criterion_raise_an_error(arguments, shown):
    with pytest.raises(ValueError, match=shown):
        criterion_with(**arguments)


def test_negative_numbers_raise_an_error():
    for part, arguments, shown in (
        (CrossEntropyLoss, {"eos_coef": -0.1}, "eos_coef=-0.1"),
        (CrossEntropyLoss, {"least": -1}, "least=-1"),
        (GIoULoss, {"eps": -1e-6}, "eps=-1e-06"),
        (GIoUCost, {"eps": -1e-6}, "eps=-1e-06"),
    ):
        with pytest.raises(ValueError, match=shown):
            part(**arguments)


def test_own_losses_in_pixels_need_image_sizes():
    own_losses = {"_enc": {"loss_bbox": GIoULoss(in_pixels=True)}}
    assert not criterion_with().needs_image_sizes
    assert criterion_with(own_losses=own_losses).needs_image_sizes


@pytest.mark.parametrize("divide_by", ["objects", "matches"])
def test_a_process_with_non_finite_predictions_still_takes_part_in_all_reductions(divide_by, monkeypatch):
    union = MatchUnion(losses=["loss_bbox"], sets=[""])
    criterion = criterion_with(divide_by=divide_by, union=union, over_processes={"loss_class": True})
    targets, sent = random_targets([1, 2]), []
    monkeypatch.setattr(
        set_criterion, "mean_over_processes", lambda value: sent.append((value.shape, value.dtype)) or value
    )
    outputs = {name: random_predictions(2, 4, 4, seed=seed) for seed, name in enumerate(("", "_enc"))}
    criterion(outputs, targets)
    sent_by_good_process, sent = sent, []
    outputs["_enc"].logits[1] = math.nan
    with pytest.raises(NonFiniteError):
        criterion(outputs, targets)
    assert sent == sent_by_good_process


def test_losses_can_be_divided_by_the_objects_of_each_process(monkeypatch):
    processes = Processes(monkeypatch)
    criterion = criterion_with(over_processes={"loss_bbox": False})
    batch = random_targets([3, 1])
    parts = [image_of(batch, 0), image_of(batch, 1)]
    predictions = random_predictions(1, 5, 4)
    results = processes.run(
        *(
            lambda process_targets=process_targets: criterion({"": predictions}, process_targets)
            for process_targets in parts
        )
    )
    for losses, process_targets in zip(results, parts, strict=True):
        match = criterion.match({"": predictions}, process_targets)[""]
        distances = (predictions.boxes[0, match.query] - process_targets.boxes[match.target]).abs().sum()
        assert_close(losses["loss_bbox"], distances / len(process_targets))
        positives = F.one_hot(process_targets.labels, 4)
        class_targets = torch.zeros(5, 4, dtype=torch.float64)
        class_targets[match.query] = positives[match.target].double()
        p = predictions.logits[0].sigmoid()
        focal = -0.25 * class_targets * (1 - p) ** 2 * p.log() - 0.75 * (1 - class_targets) * p**2 * (1 - p).log()
        assert_close(losses["loss_class"], focal.sum() / 2)
