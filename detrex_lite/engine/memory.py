"""Estimates the memory that a training step needs, and measures the memory that is free."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig

from ..config import instantiate
from ..inference.predictor import without_pretrained_backbone
from ..structures import Boxes, Instances

SIDES = (128, 256)  # sides of the two trial images, in pixels: the memory of a step is linear in the number of pixels
OBJECTS = 8  # in each trial image
BYTES_OF_WEIGHT = 20  # four bytes each for the weight, its gradient, two moments of AdamW and the running mean
WORKSPACE = 1.3  # factor over what is kept for the backward pass, for gradients and the workspace of operators


class MemoryNeed(NamedTuple):
    """The memory of a training step in bytes: `fixed`, and `per_image` for each image of the batch."""

    fixed: int
    per_image: int


def measure_need(cfg: DictConfig, pixels: int) -> MemoryNeed | None:
    """Estimate the memory of a training step, from what forward passes of two small images keep for the backward pass.

    Args:
        cfg: a config whose `model` can be built.
        pixels: the number of pixels of each training image.

    Returns:
        An estimate in bytes, for float32; None when the model cannot run on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            model = instantiate(without_pretrained_backbone(cfg).model).train()
            small, large = (bytes_kept(model, [_trial_image(side)]) for side in SIDES)
        except (RuntimeError, ValueError, OSError, ImportError):
            return None  # if something is wrong, training will raise the error
    weights = sum(parameter.numel() for parameter in model.parameters())
    slope = max(0.0, (large - small) / (SIDES[1] ** 2 - SIDES[0] ** 2))
    per_image = large + slope * (pixels - SIDES[1] ** 2)
    return MemoryNeed(weights * BYTES_OF_WEIGHT, int(WORKSPACE * max(small, per_image)))


def bytes_kept(model: torch.nn.Module, batch: Sequence[dict[str, Any]]) -> int:
    """Bytes that a forward pass of a batch keeps for the backward pass, without the weights."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = model(batch)
    assert losses  # their graph keeps the counted tensors alive until here
    return sum(sizes.values())


def _trial_image(side: int) -> dict[str, Any]:
    """A square image with objects, as a model takes it in training."""
    corners = torch.linspace(0, side / 2, OBJECTS)[:, None].repeat(1, 2)
    instances = Instances(
        (side, side),
        gt_boxes=Boxes(torch.cat([corners, corners + side / 4], dim=1)),
        gt_classes=torch.zeros(OBJECTS, dtype=torch.int64),
    )
    image = torch.randint(256, (3, side, side), dtype=torch.uint8)
    return {"image": image, "height": side, "width": side, "image_id": 0, "file_name": "", "instances": instances}


def free_memory(device: str) -> int | None:
    """Bytes that are free on a device, within the limit of the container if there is one; None when not known."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.mem_get_info(torch.device(device))[0]
    available = system_sizes("/proc/meminfo").get("MemAvailable")
    limits = [value for value in (available, _free_in_group()) if value is not None]
    return min(limits) if limits else None


def system_sizes(path: str) -> dict[str, int]:
    """The bytes by name in lines such as `MemTotal: 16 kB`; empty when the system has no such file."""
    try:
        text = Path(path).read_text()
    except OSError:
        return {}
    return {name: int(value) * 1024 for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, flags=re.MULTILINE)}


def _free_in_group(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return int(limit) - int(used) if limit.isdecimal() else None
