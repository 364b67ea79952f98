"""Inputs of measurements: a config's model with random weights, and synthetic images and objects."""

from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from detrex_lite.config import LazyConfig, instantiate, locate
from detrex_lite.inference.predictor import without_pretrained_backbone
from detrex_lite.structures import Boxes, Instances

from .errors import BenchmarkError

FEWEST_OBJECTS, MOST_OBJECTS = 4, 10  # per image; COCO has 7 on average


def load_model_config(file: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Load the `model` of a config file, with random instead of pre-trained weights, so nothing is downloaded.

    Raises:
        ConfigError: when there is no such file, or an override is wrong.
        BenchmarkError: when the config has no model.
    """
    config = LazyConfig.apply_overrides(LazyConfig.load(file), list(overrides))
    if not isinstance(config, DictConfig) or not isinstance(config.get("model"), DictConfig):
        sections = ", ".join(map(str, config)) if isinstance(config, DictConfig) else "none"
        raise BenchmarkError(f"{file} has no 'model'; its sections are: {sections}")
    return without_pretrained_backbone(config).model


def build_model(model_config: DictConfig, *, seed: int = 0) -> nn.Module:
    """Build a model with weights drawn from the seed.

    Raises:
        ConfigError: when the config is invalid.
    """
    torch.manual_seed(seed)
    return instantiate(model_config)


def class_name(node: Any) -> str:
    """The name, without modules, of the class or function that a config node calls; "" when the node is no call."""
    target = node.get("_target_", "") if isinstance(node, DictConfig) else ""
    return target.rpartition(".")[2] if isinstance(target, str) else getattr(target, "__name__", str(target))


def class_names(node: Any) -> list[str]:
    """The names of the class that a config node calls and of its base classes, nearest first."""
    target = node["_target_"]
    target = locate(target) if isinstance(target, str) else target
    return [base.__name__ for base in getattr(target, "__mro__", [target])]


def synthetic_batch(
    batch: int, height: int, width: int, *, num_classes: int, seed: int = 0, device: torch.device | str = "cpu"
) -> list[dict[str, Any]]:
    """Model inputs whose images are noise, with about 7 objects each.

    Args:
        batch: number of images.
        height, width: size of all images, in pixels.
        num_classes: labels are drawn from 0..num_classes - 1.
        seed: seed of images and objects.
        device: device of the images. The objects are on the CPU, as data loaders return them.

    Returns:
        Dicts with `image` ((3, height, width) uint8), `height`, `width`, `image_id`, `file_name` and `instances`
        (`gt_boxes` absolute xyxy, `gt_classes`).
    """
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([width, height], dtype=torch.float32)
    inputs = []
    for number in range(batch):
        image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)
        objects = int(torch.randint(FEWEST_OBJECTS, MOST_OBJECTS + 1, (), generator=generator))
        extent = (0.05 + 0.45 * torch.rand(objects, 2, generator=generator)) * size
        corner = torch.rand(objects, 2, generator=generator) * (size - extent)
        instances = Instances(
            (height, width),
            gt_boxes=Boxes(torch.cat([corner, corner + extent], dim=1)),
            gt_classes=torch.randint(num_classes, (objects,), generator=generator),
        )
        inputs.append(
            {
                "image": image.to(device),
                "height": height,
                "width": width,
                "image_id": number,
                "file_name": f"synthetic {number}",
                "instances": instances,
            }
        )
    return inputs
