"""From a record of a data set to what a model takes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from ..structures import Boxes, Instances
from .faults import DatasetError, size_fault
from .image import read_image


class DetrDatasetMapper:
    """Reads the image, augments it together with its boxes, and packs both for a model.

    Args:
        augmentation: a transform of torchvision v2, called with the image and a dictionary of `boxes` and
            `labels`; None for none. Where the record says so, the dictionary also has `epoch`, the number of the run's
            epoch, and `draw`, a function that gives another image of the data set and a dictionary of its `boxes` and
            `labels`. It must leave pixels as uint8: models normalise by themselves.
        is_train: give the objects as `instances`.
    """

    def __init__(self, *, augmentation: Callable[..., Any] | None = None, is_train: bool):
        self.augmentation = augmentation
        self.is_train = is_train

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """One image for a model.

        Args:
            record: as `DetectionDataset` gives it, in training with `epoch` and `draw` (`build_train_loader`).

        Returns:
            `image` (3, H, W) uint8 RGB; `height` and `width` of the original in pixels; `image_id`,
            `file_name`; in training `instances` with `gt_boxes` (`Boxes`, xyxy in pixels of `image`) and
            `gt_classes` (T,), without crowds and without boxes that the augmentation left no area of.

        Raises:
            DatasetError: when the image cannot be read, or is of another size than annotated.
            ValueError: when the augmentation changes the type of the pixels.
        """
        return self.pack(record, *self.augment(*self.read(record), **self.context(record)))

    def context(self, record: dict[str, Any]) -> dict[str, Any]:
        """What the augmentation gets besides image and objects: `epoch` and `draw`, where the record has them."""
        context = {"epoch": record["epoch"]} if "epoch" in record else {}
        if "draw" in record:
            context["draw"] = lambda: _sample(*record["draw"](self.read))
        return context

    def read(self, record: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """The image as the file has it, and the boxes and classes of the objects that count."""
        image = read_image(record["file_name"])
        annotated = (record["height"], record["width"])
        fault = size_fault((image.shape[-2], image.shape[-1]), annotated)
        if fault:
            raise DatasetError(f"{record['file_name']}: {fault}")
        wanted = ~record["iscrowd"] & self.is_train
        return image, record["boxes"][wanted], record["classes"][wanted]

    def augment(self, image: Tensor, boxes: Tensor, classes: Tensor, **context: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Image and objects after the augmentation, which gets `context` too; boxes may have lost their area."""
        if self.augmentation is None:
            return image, boxes, classes
        wrapped, target = _sample(image, boxes, classes)
        augmented, target = self.augmentation(wrapped, {**target, **context})
        if augmented.dtype != torch.uint8:
            raise ValueError(
                f"the augmentation turned the image from torch.uint8 into {augmented.dtype}; models "
                "normalise 0..255 by themselves, so leave out ToDtype and Normalize"
            )
        plain = augmented.as_subclass(Tensor).contiguous()
        return plain, target["boxes"].as_subclass(Tensor), target["labels"]

    def pack(self, record: dict[str, Any], image: Tensor, boxes: Tensor, classes: Tensor) -> dict[str, Any]:
        """The parts as a model's input, without boxes that have no area."""
        result = {
            "image": image,
            "height": record["height"],
            "width": record["width"],
            "image_id": record["image_id"],
            "file_name": record["file_name"],
        }
        if self.is_train:
            size = (image.shape[-2], image.shape[-1])
            instances = Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes)
            instances.gt_boxes.clip(size)
            result["instances"] = instances[instances.gt_boxes.nonempty()]
        return result


def _sample(image: Tensor, boxes: Tensor, classes: Tensor) -> tuple[tv_tensors.Image, dict[str, Any]]:
    """An image and its objects as transforms of torchvision take them."""
    canvas = (image.shape[-2], image.shape[-1])
    return tv_tensors.Image(image), {
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=canvas),
        "labels": classes,
    }
