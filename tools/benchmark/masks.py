"""The time and memory of mask losses: at sampled points, and on all cells of whole masks."""

import gc
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from detrex_lite.modeling import HungarianMatcher, MaskBCELoss, MaskCost, MaskDiceLoss, MaskFeatures, SetCriterion
from detrex_lite.modeling.masks import MASK_EMBEDDING, binary_cross_entropy, dice_loss
from detrex_lite.modeling.predictions import Predictions
from detrex_lite.modeling.targets import MASKS, Targets

from .machine import machine_facts, peak_device_bytes
from .settings import MaskSettings
from .stages import StagesReport
from .timing import time_in_turns

STRIDE = 4


def benchmark_masks(settings: MaskSettings, device: torch.device) -> StagesReport:
    """Time the forward and backward passes of matching and losses of masks, and measure their memory."""
    torch.manual_seed(0)
    images, cells = settings.images, settings.cells
    tensor = torch.randn(images, settings.channels, cells, cells, device=device) / settings.channels**0.5
    features = MaskFeatures(tensor.requires_grad_(), STRIDE)
    embeddings = [
        torch.randn(images, settings.queries, settings.channels, device=device, requires_grad=True)
        for _ in range(settings.sets)
    ]
    logits = torch.zeros(images, settings.queries, 1, device=device)
    boxes = torch.full((images, settings.queries, 4), 0.5, device=device)
    predictions = {
        f"_{number}": Predictions(logits, boxes, {MASK_EMBEDDING: embedding}, mask_features=features)
        for number, embedding in enumerate(embeddings)
    }
    number = images * settings.objects
    object_masks = torch.zeros(number, cells * STRIDE, cells * STRIDE, dtype=torch.bool, device=device)
    object_masks[:, cells : 3 * cells, cells : 3 * cells] = True
    targets = Targets(
        torch.zeros(number, dtype=torch.int64, device=device),
        torch.full((number, 4), 0.5, device=device),
        [settings.objects] * images,
        {MASKS: object_masks},
    )
    matcher = HungarianMatcher({"mask": MaskCost(num_points=settings.points)})
    losses = {"loss_mask": MaskBCELoss(settings.points), "loss_dice": MaskDiceLoss(settings.points)}
    criterion = SetCriterion(matcher=matcher, losses=losses, weights=dict.fromkeys(losses, 5.0))
    matches = matcher(predictions, targets)
    matched_predictions = {
        name: Predictions(logits, boxes, prediction.extra, mask_features=features, match=matches[name])
        for name, prediction in predictions.items()
    }

    def backward(total: Tensor) -> None:
        total.backward()
        for leaf in (features.tensor, *embeddings):
            leaf.grad = None

    def at_points() -> None:
        backward(torch.stack(list(criterion(matched_predictions, targets).values())).sum())

    def of_whole_masks() -> None:
        total = features.tensor.new_zeros(())
        labels = F.interpolate(object_masks[:, None].float(), (cells, cells), mode="bilinear", align_corners=False)[
            :, 0
        ]
        for name, prediction in predictions.items():
            match = matches[name]
            maps = torch.einsum("bqc,bchw->bqhw", prediction.extra[MASK_EMBEDDING], features.tensor)
            matched = maps[match.image, match.query].flatten(1)
            compared = labels[match.target].flatten(1)
            total = total + (binary_cross_entropy(matched, compared) + dice_loss(matched, compared)).sum()
        backward(total)

    sides: dict[str, Callable[[], object]] = {
        "losses at points": at_points,
        "losses of whole masks of all queries": of_whole_masks,
        "matching": lambda: matcher(predictions, targets),
    }
    memory = {f"peak memory, {name}, MiB": _peak_bytes(step, device) / 2**20 for name, step in sides.items()}
    return StagesReport(
        title=(
            f"Masks of {settings.sets} sets of {settings.queries} queries with {settings.objects} objects in each of "
            f"{images} images of {cells * STRIDE}x{cells * STRIDE}"
        ),
        machine=machine_facts(device),
        settings=asdict(settings),
        timings=time_in_turns(sides, device, repeats=settings.repeats),
        rates=memory,
        notes=["Memory is what a step allocates in addition to the memory in use before it."],
    )


def _peak_bytes(step: Callable[[], object], device: torch.device) -> float:
    """The peak memory of a step; nan on systems other than Linux without a GPU."""
    peak = peak_device_bytes(step, device, 0)
    if peak is not None:
        return float(peak)
    if sys.platform != "linux":
        return float("nan")
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    resident_before = _status("VmRSS")
    step()
    return float(_status("VmHWM") - resident_before)


def _status(name: str) -> int:
    """The value of a line of this process's status file, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
