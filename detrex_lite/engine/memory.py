"""How much memory a training step needs, and how much there is."""

from pathlib import Path
from typing import NamedTuple

import torch
from omegaconf import DictConfig

from ..config import instantiate
from ..inference.predictor import without_pretrained_backbone
from ..structures import Boxes, Instances

SIDES = (128, 256)  # pixels of the images that are tried: what a step keeps grows in proportion to the pixels
OBJECTS = 8  # in that image
BYTES_OF_WEIGHT = 20  # weight, gradient, two moments of AdamW, running mean: four bytes each
WORKSPACE = 1.3  # times what is kept for the backward pass: gradients and what operators need besides


class MemoryNeed(NamedTuple):
    """Bytes of a training step: `fixed`, and `per_image` of the batch."""

    fixed: int
    per_image: int


def measure_need(cfg: DictConfig, pixels: int) -> MemoryNeed | None:
    """What a training step of a config's model needs, by what forward passes of two small images keep for gradients.

    Args:
        cfg: a config whose `model` can be built.
        pixels: of each image in training.

    Returns:
        An estimate in bytes, for float32; None when the model cannot be tried on the CPU.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            model = instantiate(without_pretrained_backbone(cfg).model).train()
            small, large = (_bytes_kept(model, side) for side in SIDES)
        except (RuntimeError, ValueError, OSError, ImportError):
            return None  # training will say what is wrong, if it is
    weights = sum(parameter.numel() for parameter in model.parameters())
    slope = max(0.0, (large - small) / (SIDES[1] ** 2 - SIDES[0] ** 2))
    kept = large + slope * (pixels - SIDES[1] ** 2)
    return MemoryNeed(weights * BYTES_OF_WEIGHT, int(WORKSPACE * max(small, kept)))


def _bytes_kept(model: torch.nn.Module, side: int) -> int:
    """What a forward pass in training keeps for the backward pass, besides weights, of a square image."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    corners = torch.linspace(0, side / 2, OBJECTS)[:, None].repeat(1, 2)
    instances = Instances(
        (side, side),
        gt_boxes=Boxes(torch.cat([corners, corners + side / 4], dim=1)),
        gt_classes=torch.zeros(OBJECTS, dtype=torch.int64),
    )
    image = torch.randint(256, (3, side, side), dtype=torch.uint8)
    record = {"image": image, "height": side, "width": side, "image_id": 0, "file_name": "", "instances": instances}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = model([record])
    assert losses
    return sum(kept.values())


def free_memory(device: str) -> int | None:
    """Bytes that are free on a device, within the limit of the container that this is; None when not known."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.mem_get_info(torch.device(device))[0]
    limits = [value for value in (_available(), _left_in_group()) if value is not None]
    return min(limits) if limits else None


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(sizes[0]) * 1024 if sizes else None


def _left_in_group(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return int(limit) - int(used) if limit.isdecimal() else None
