"""Detections in one's own images, from Python."""

import copy
import logging
import numbers
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from ..checkpoint import CheckpointError, LoadReport, load_checkpoint, read_checkpoint
from ..config import LazyConfig, instantiate
from ..data import DatasetError, decode_image, read_image
from ..devices import choose_device, is_out_of_memory
from ..ops.cpu import accelerate
from ..structures import Instances
from .class_names import find_class_names

logger = logging.getLogger(__name__)

ImageLike = str | Path | np.ndarray | Tensor | Image.Image


class Predictor:
    """Builds a config's model with trained weights and finds objects in images.

    Images may be paths, PIL images, (H, W, 3) uint8 arrays or (3, H, W) uint8 tensors. **Arrays and tensors
    are taken as RGB**; those of OpenCV are BGR: say so with `image_format="BGR"`. Files are turned as their
    EXIF orientation says; PIL images are not turned.

    Each result is an `Instances` on the CPU with `pred_boxes` (xyxy in pixels of the image as given),
    `scores` and `pred_classes` (indices into `class_names`).

    Args:
        config: the path of a config file, or a loaded config; `model` is built, and images are resized by
            `dataloader.test.mapper.augmentation` as in evaluation.
        weights: a checkpoint file of this project or another (see `load_checkpoint`); the averaged weights
            (EMA) in it are preferred. None takes `train.init_checkpoint` of the config.
        device: "auto" is a GPU when there is one; otherwise as `torch.device` has it.
        score_threshold: detections with lower scores are left out, 0..1.
        batch_size: so many images at a time. With images of different sizes, large batches hold much padding.
        trusted: allow the checkpoint to execute code while it is read; only for files that you trust.
        image_format: "RGB" or "BGR", the order of the channels of arrays and tensors.

    Attributes:
        model: the model, in eval mode on `device`; accelerated on a CPU, see `detrex_lite.ops.cpu.restore`.
        class_names: K names.

    Raises:
        ValueError: for arguments of another type or outside their range, a config without `model`, or weights that
            are not of this model.
    """

    def __init__(
        self,
        config: str | Path | DictConfig | Mapping[str, Any],
        weights: str | Path | None = None,
        *,
        device: str | torch.device = "auto",
        score_threshold: float = 0.5,
        batch_size: int = 1,
        trusted: bool = False,
        image_format: str = "RGB",
    ):
        if not _is_a(numbers.Real, score_threshold) or not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold must be in 0..1, got {score_threshold!r}")
        if not _is_a(numbers.Integral, batch_size) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}")
        self.score_threshold = score_threshold
        self.batch_size = batch_size
        self.image_format = image_format
        self.device = choose_device(device)
        config = _load_config(config)
        weights = weights or OmegaConf.select(config, "train.init_checkpoint")
        stored = read_checkpoint(weights, trusted=trusted) if weights else None
        self.model = _build_model(config, stored, str(weights)).to(self.device).eval()
        if self.device.type == "cpu":
            accelerate(self.model)
        augmentation = OmegaConf.select(config, "dataloader.test.mapper.augmentation")
        self.augmentation = instantiate(augmentation) if augmentation is not None else None
        self.class_names = find_class_names(self.model.num_classes, stored or {}, config)

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> Instances | list[Instances]:
        """Find objects in one image or in a list of them.

        Returns:
            One result for one image; a list of results for a list.

        Raises:
            ValueError: when an image cannot be read, needs more memory than there is, or is of another kind; the
                message names it.
        """
        if isinstance(images, (list, tuple)):
            return [
                _or_raise(result, f"image {position} of the list")
                for position, (_, result) in enumerate(self.iterate(images))
            ]
        [(_, result)] = self.iterate([images])  # type: ignore[list-item]
        return _or_raise(result, "the image")

    def iterate(
        self, images: Iterable[ImageLike]
    ) -> Iterator[tuple[ImageLike, Instances] | tuple[ImageLike, ValueError]]:
        """Find objects in any number of images, one batch at a time; broken images stop nothing.

        Args:
            images: read no further ahead than one batch.

        Yields:
            Each image as it was given, with its result, or with the error that says why there is none.
        """
        images = iter(images)
        while batch := list(islice(images, self.batch_size)):
            loaded = [self._load(image) for image in batch]
            found = iter(self._predict([inputs for inputs in loaded if isinstance(inputs, dict)]))
            for image, inputs in zip(batch, loaded, strict=True):
                result = next(found) if isinstance(inputs, dict) else inputs
                yield (image, result) if isinstance(result, Instances) else (image, _named(result, image))

    def _load(self, image: ImageLike) -> dict[str, Any] | ValueError:
        """The model's input, or what is wrong."""
        try:
            pixels = self._to_rgb_tensor(image)
        except ValueError as error:
            return error
        try:
            return {"image": self._augment(pixels), "height": pixels.shape[-2], "width": pixels.shape[-1]}
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return _TooLargeError(*pixels.shape[-2:])

    def _to_rgb_tensor(self, image: ImageLike) -> Tensor:
        if isinstance(image, (str, Path)):
            return read_image(image)
        if isinstance(image, Image.Image):
            return decode_image(image)
        if isinstance(image, np.ndarray):
            _check_pixels(image, channels=-1, expected="an (H, W, 3) uint8 array")
            pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        elif isinstance(image, Tensor):
            _check_pixels(image, channels=0, expected="a (3, H, W) uint8 tensor")
            pixels = image.detach().cpu()
        else:
            raise ValueError(
                f"cannot read a {type(image).__name__} as an image; give a path, a PIL image, "
                "an (H, W, 3) uint8 array or a (3, H, W) uint8 tensor"
            )
        return pixels.flip(0) if self.image_format == "BGR" else pixels

    @torch.no_grad()
    def _predict(self, batch: list[dict[str, Any]]) -> list[Instances | ValueError]:
        """What is in the images, which go one by one where memory does not hold them together."""
        if not batch:
            return []
        try:
            found = [output["instances"].to("cpu") for output in self.model(batch)]
            return [one[one.scores >= self.score_threshold] for one in found]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        # Here the error is gone, and with it the tensors that its traceback held.
        if len(batch) == 1:
            return [_TooLargeError(batch[0]["height"], batch[0]["width"])]
        return [self._predict([inputs])[0] for inputs in batch]

    def _augment(self, image: Tensor) -> Tensor:
        if self.augmentation is None:
            return image
        # Transforms of the test set may be written for an image with objects: here there are none.
        size = (image.shape[-2], image.shape[-1])
        boxes = tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=size)
        target = {"boxes": boxes, "labels": torch.zeros(0, dtype=torch.int64)}
        augmented, _ = self.augmentation(tv_tensors.Image(image), target)
        return augmented.as_subclass(Tensor)


class _TooLargeError(ValueError):
    def __init__(self, height: int, width: int):
        super().__init__(f"an image of {height}x{width} (height x width) pixels needs more memory than there is")


def _named(error: ValueError, image: ImageLike) -> ValueError:
    """The error with the path of its image, which the errors of reading files have already."""
    if isinstance(image, str | Path) and not isinstance(error, DatasetError):
        return ValueError(f"{image}: {error}")
    return error


def _is_a(kind: type, value: Any) -> bool:
    """Whether a value is a number of this kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def _or_raise(result: Instances | ValueError, where: str) -> Instances:
    if isinstance(result, ValueError):
        raise ValueError(f"{where}: {result}") from result
    return result


def _load_config(config: str | Path | DictConfig | Mapping[str, Any]) -> DictConfig:
    if isinstance(config, (str, Path)):
        config = LazyConfig.load(str(config))
    elif not isinstance(config, DictConfig):
        config = OmegaConf.create(dict(config), flags={"allow_objects": True})
    assert isinstance(config, DictConfig)
    if "model" not in config:
        raise ValueError(f"the config has no 'model'; its sections are {', '.join(map(str, config))}")
    return config


def _build_model(config: DictConfig, stored: Mapping[str, Any] | None, weights: str) -> Any:
    """The model with the weights of a checkpoint's content, or as initialised when there is none."""
    if stored is None:
        logger.warning("No weights were given: the model is as initialised, its detections mean nothing.")
        return instantiate(config.model)
    model, _ = build_trained(config, stored, weights)
    return model


def build_trained(
    config: DictConfig, stored: Mapping[str, Any], source: str, *, prefer_ema: bool = True
) -> tuple[Any, LoadReport]:
    """A config's model with the weights of a checkpoint, on the CPU, and what loading them did.

    Args:
        config: of which `model` is built, without pre-trained weights of its own.
        stored: what the checkpoint file holds.
        source: its name, for messages.
        prefer_ema: take the running mean of the weights where the checkpoint has one.

    Raises:
        CheckpointError: when it is not of this model, or lacks something that evaluation needs.
    """
    model = instantiate(without_pretrained_backbone(config).model)
    return model, load_trained(model, stored, source, prefer_ema=prefer_ema)


def without_pretrained_backbone(config: DictConfig) -> DictConfig:
    """The config for a model that gets all of its weights from a checkpoint.

    Its backbone has no pre-trained weights of its own, which would be downloaded only to be overwritten.
    """
    if OmegaConf.select(config, "model.backbone.weights") is None:
        return config
    config = copy.deepcopy(config)
    config.model.backbone.weights = None
    return config


def load_trained(model: Any, stored: Mapping[str, Any], source: str, *, prefer_ema: bool = True) -> LoadReport:
    """Copy the weights of a checkpoint's content into a model that is to detect with them.

    Args:
        model: the model.
        stored: what the checkpoint file holds.
        source: its name, for messages.
        prefer_ema: take the running mean of the weights where the checkpoint has one.

    Raises:
        CheckpointError: when it is not of this model, or lacks something that evaluation needs.
    """
    try:
        report = load_checkpoint(model, stored, prefer_ema=prefer_ema)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    report.require_complete(source)
    return report


def _check_pixels(image: np.ndarray | Tensor, *, channels: int, expected: str) -> None:
    shape = tuple(image.shape)
    if len(shape) != 3 or shape[channels] != 3 or 0 in shape or str(image.dtype).split(".")[-1] != "uint8":
        raise ValueError(f"an image must be {expected}, got shape {shape} of {image.dtype}")
