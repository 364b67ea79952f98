"""By how much a model of this project differs from a `Reference`."""

import re
from collections.abc import Mapping
from math import inf
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from detrex_lite.checkpoint import LoadReport
from detrex_lite.modeling import Detector
from detrex_lite.modeling.predictions import FINAL
from detrex_lite.testing import predict

from .reference import COCO_IDS, Reference

# How large differences of each kind may be. All is computed in float64; logits are stored in float32.
LIMITS = {
    "detections": 0,  # how many there are
    "scores": 1e-10,  # absolute
    "boxes": 1e-8,  # pixels
    "classes": 0,  # detections with another class
    "last logits": 1e-6,  # relative where they are above 1
    "last boxes": 1e-10,  # absolute, in 0..1
    "losses": 1e-9,  # relative
    "gradients": 1e-8,  # of the norms, relative
}

# Names of losses there -> here, where detrex has others.
LOSS_NAMES = (
    (r"^tgt_loss_([a-z]+)", r"loss_\1_dn"),  # of DN-DETR's denoising queries
    (r"^loss_ce", "loss_class"),
    (r"_interm$", "_enc"),
    (r"_hybrid$", "_one2many"),  # of Relation-DETR
)


class Difference(NamedTuple):
    """The largest difference of one kind.

    Attributes:
        size: infinite for what is only here, or only there.
        where: the number of the image, or the name of the loss or parameter.
    """

    size: float
    where: str


def differences(model: Detector, report: LoadReport, reference: Reference) -> dict[str, Difference]:
    """The largest difference of each kind, under the names of `LIMITS`.

    Args:
        model: with the weights of the reference, in float64, without dropout and noise.
        report: of loading these weights.
        reference: what to compare with.
    """
    model.eval()
    of_images = [_of_detections(model, reference, number) for number in range(len(reference.found))]
    found = {
        kind: _largest({f"image {number}": one[kind] for number, one in enumerate(of_images)}) for kind in of_images[0]
    }
    model.train()
    losses = model(reference.training_batch())
    torch.stack(list(losses.values())).sum().backward()
    return {
        **found,
        "losses": _of_losses(losses, reference),
        "gradients": _of_gradients(model, report, reference),
    }


def beyond_limits(found: Mapping[str, Difference]) -> dict[str, Difference]:
    """The differences that are too large, or not a number."""
    return {kind: one for kind, one in found.items() if not one.size <= LIMITS[kind]}


def _largest(sizes: Mapping[str, float]) -> Difference:
    where, size = max(sizes.items(), key=lambda item: inf if np.isnan(item[1]) else item[1])
    return Difference(size, where)


def _of_detections(model: Detector, reference: Reference, number: int) -> dict[str, float]:
    record, wanted = reference.evaluation_input(number), reference.found[number]
    with torch.no_grad():
        last = predict(model, [record])[FINAL]
    detected = model.postprocessor(last, [(record["height"], record["width"])])[0]
    classes = np.array(COCO_IDS).searchsorted(wanted.classes) if reference.coco_ids else wanted.classes
    if len(detected) < len(classes):
        return {kind: inf for kind in LIMITS if kind not in ("losses", "gradients")}
    best = detected[: len(classes)]
    logits = (last.logits[0].numpy() - wanted.last_logits) / np.maximum(1, abs(wanted.last_logits))
    return {
        "detections": abs(len(detected) - reference.num_detections),
        "scores": abs(best.scores.numpy() - wanted.scores).max(),
        "boxes": abs(best.pred_boxes.tensor.numpy() - wanted.boxes).max(),
        "classes": (best.pred_classes.numpy() != classes).sum(),
        "last logits": abs(logits).max(),
        "last boxes": abs(last.boxes[0].numpy() - wanted.last_boxes).max(),
    }


def _of_losses(losses: Mapping[str, Tensor], reference: Reference) -> Difference:
    wanted = {_loss_name(name): value for name, value in reference.losses.items()}
    sizes = {name: abs(losses[name].item() / wanted[name] - 1) for name in losses.keys() & wanted.keys()}
    return _largest(sizes | dict.fromkeys(losses.keys() ^ wanted.keys(), inf))


def _loss_name(name: str) -> str:
    for pattern, replacement in LOSS_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _of_gradients(model: Detector, report: LoadReport, reference: Reference) -> Difference:
    parameters = dict(model.named_parameters())
    # A tensor that has several names there may be several parameters here; its gradient there is that of all its uses.
    counterparts: dict[str, set[str]] = {}
    for name, names in report.loaded.items():
        first = reference.shared.get(name, name)
        counterparts.setdefault(first, set()).update(one for one in names if one in parameters)
    wanted = reference.gradient_norms
    # Gradients that are zero but for rounding are compared with the largest one.
    least = 1e-6 * max(norm for norm in wanted.values() if norm is not None)
    sizes = {}
    for name in wanted.keys() | {name for name, names in counterparts.items() if names}:
        here = _gradient_norm([parameters[one] for one in counterparts.get(name, ())])
        there = wanted.get(name)
        if here is None or there is None:
            sizes[name] = 0.0 if here is there else inf
        else:
            sizes[name] = abs(here - there) / max(there, least)
    return _largest(sizes)


def _gradient_norm(parameters: list[Tensor]) -> float | None:
    """Of the sum of the gradients; None when all are frozen."""
    trained = [one for one in parameters if one.requires_grad]
    if not trained:
        return None
    return float(sum(torch.zeros_like(one) if one.grad is None else one.grad for one in trained).norm())
