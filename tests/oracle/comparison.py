"""Differences between a model of this project and a `Reference`."""

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

# Limits of the differences of each kind. Everything is computed in float64; logits are stored in float32.
LIMITS = {
    "detections": 0,  # difference of their number
    "scores": 1e-10,  # absolute
    "boxes": 1e-8,  # pixels
    "classes": 0,  # number of detections with a different class
    "last logits": 1e-6,  # relative for logits above 1
    "last boxes": 1e-10,  # absolute, in 0..1
    "losses": 1e-9,  # relative
    "gradients": 1e-8,  # of the norms, relative
}

# Translation of loss names from the reference to this project, where detrex's differ.
LOSS_NAMES = (
    (r"^tgt_loss_([a-z]+)", r"loss_\1_dn"),  # DN-DETR's denoising queries
    (r"^loss_ce", "loss_class"),
    (r"_interm$", "_enc"),
    (r"_hybrid$", "_one2many"),  # Relation-DETR
)


class Difference(NamedTuple):
    """The largest difference of one kind.

    Attributes:
        size: infinite for names that exist on one side only.
        where: the number of the image, or the name of the loss or parameter.
    """

    size: float
    where: str


def differences(model: Detector, report: LoadReport, reference: Reference) -> dict[str, Difference]:
    """Compute the largest difference of each kind, with the keys of `LIMITS`.

    Args:
        model: a model with the weights of the reference, in float64, without dropout and noise.
        report: the report of loading these weights.
        reference: the reference.
    """
    model.eval()
    of_images = [_of_detections(model, reference, number) for number in range(len(reference.results))]
    of_detections = {
        kind: _largest(
            {f"image {number}": image_differences[kind] for number, image_differences in enumerate(of_images)}
        )
        for kind in of_images[0]
    }
    model.train()
    losses = model(reference.training_batch())
    torch.stack(list(losses.values())).sum().backward()
    return {
        **of_detections,
        "losses": _of_losses(losses, reference),
        "gradients": _of_gradients(model, report, reference),
    }


def beyond_limits(all_differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """Return the differences that are too large or NaN."""
    return {kind: difference for kind, difference in all_differences.items() if not difference.size <= LIMITS[kind]}


def _largest(sizes: Mapping[str, float]) -> Difference:
    where, size = max(sizes.items(), key=lambda item: inf if np.isnan(item[1]) else item[1])
    return Difference(size, where)


def _of_detections(model: Detector, reference: Reference, number: int) -> dict[str, float]:
    record, expected = reference.evaluation_input(number), reference.results[number]
    with torch.no_grad():
        last = predict(model, [record])[FINAL]
    detected = model.postprocessor(last, [(record["height"], record["width"])])[0]
    classes = np.array(COCO_IDS).searchsorted(expected.classes) if reference.coco_ids else expected.classes
    if len(detected) < len(classes):
        return {kind: inf for kind in LIMITS if kind not in ("losses", "gradients")}
    best = detected[: len(classes)]
    logits = (last.logits[0].numpy() - expected.last_logits) / np.maximum(1, abs(expected.last_logits))
    return {
        "detections": abs(len(detected) - reference.num_detections),
        "scores": abs(best.scores.numpy() - expected.scores).max(),
        "boxes": abs(best.pred_boxes.tensor.numpy() - expected.boxes).max(),
        "classes": (best.pred_classes.numpy() != classes).sum(),
        "last logits": abs(logits).max(),
        "last boxes": abs(last.boxes[0].numpy() - expected.last_boxes).max(),
    }


def _of_losses(losses: Mapping[str, Tensor], reference: Reference) -> Difference:
    expected = {_loss_name(name): value for name, value in reference.losses.items()}
    sizes = {name: abs(losses[name].item() / expected[name] - 1) for name in losses.keys() & expected.keys()}
    return _largest(sizes | dict.fromkeys(losses.keys() ^ expected.keys(), inf))


def _loss_name(name: str) -> str:
    for pattern, replacement in LOSS_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _of_gradients(model: Detector, report: LoadReport, reference: Reference) -> Difference:
    parameters = dict(model.named_parameters())
    # A tensor with several names in the reference may be several parameters here; their gradients are summed.
    counterparts: dict[str, set[str]] = {}
    for name, names in report.loaded.items():
        first = reference.shared.get(name, name)
        counterparts.setdefault(first, set()).update(
            parameter_name for parameter_name in names if parameter_name in parameters
        )
    expected = reference.gradient_norms
    # Gradients that are zero up to rounding are compared relative to the largest one.
    smallest = 1e-6 * max(norm for norm in expected.values() if norm is not None)
    sizes = {}
    for name in expected.keys() | {name for name, names in counterparts.items() if names}:
        actual_norm = _gradient_norm([parameters[parameter_name] for parameter_name in counterparts.get(name, ())])
        expected_norm = expected.get(name)
        if actual_norm is None or expected_norm is None:
            sizes[name] = 0.0 if actual_norm is expected_norm else inf
        else:
            sizes[name] = abs(actual_norm - expected_norm) / max(expected_norm, smallest)
    return _largest(sizes)


def _gradient_norm(parameters: list[Tensor]) -> float | None:
    """Return the norm of the sum of the gradients; None when all parameters are frozen."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        return None
    return float(
        sum(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in trained).norm()
    )
