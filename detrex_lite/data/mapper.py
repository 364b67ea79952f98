"""From a record of a data set to what a model takes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from ..structures import Boxes, Instances, as_masks, has_pixels, masks_to_boxes
from .faults import DatasetError, size_fault
from .image import read_image
from .object_masks import ObjectMasks

Sample = tuple[tv_tensors.Image, dict[str, Any]]
"""An image and a dictionary of its objects, as transforms of torchvision take them."""


class DetrDatasetMapper:
    """Reads the image, augments it together with its objects, and packs both for a model.

    Where records have masks (`load_coco(masks=True)`), they are drawn at the size of the image as it is read, go
    through the augmentation as an `ObjectMasks`, and objects of which no pixel is left are left out.

    Args:
        augmentation: a transform of torchvision v2, called with the image and a dictionary of `boxes` and
            `labels`, and `masks` where there are; None for none. Where the record says so, the dictionary also has
            `epoch`, the number of the run's epoch, and `draw`, a function that gives another image of the data set
            and its dictionary. It must leave pixels as uint8: models normalise by themselves.
        is_train: give the objects as `instances`.
        boxes_from_masks: boxes are those around what the augmentation left of the masks, as in Mask DINO (Li et al.,
            CVPR 2023); otherwise they are the annotated boxes, cut off where the image is.
    """

    def __init__(
        self, *, augmentation: Callable[..., Any] | None = None, is_train: bool, boxes_from_masks: bool = False
    ):
        self.augmentation = augmentation
        self.is_train = is_train
        self.boxes_from_masks = boxes_from_masks

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """One image for a model.

        Args:
            record: as `DetectionDataset` gives it, in training with `epoch` and `draw` (`build_train_loader`).

        Returns:
            `image` (3, H, W) uint8 RGB; `height` and `width` of the original in pixels; `image_id`,
            `file_name`; in training `instances` with `gt_boxes` (`Boxes`, xyxy in pixels of `image`),
            `gt_classes` (T,) and, where the record has masks, `gt_masks` (T, H, W) bool, without crowds and without
            objects that the augmentation left no area of.

        Raises:
            DatasetError: when the image or a mask cannot be read, or is of another size than annotated, or boxes are
                to come from masks and the record has none.
            ValueError: when the augmentation changes the type of the pixels, or leaves out a box without its mask.
        """
        image, target = self.augment(*self.read(record), **self.context(record))
        return self.pack(record, image, target)

    def context(self, record: dict[str, Any]) -> dict[str, Any]:
        """What the augmentation gets besides image and objects: `epoch` and `draw`, where the record has them."""
        context = {"epoch": record["epoch"]} if "epoch" in record else {}
        if "draw" in record:
            context["draw"] = lambda: record["draw"](self.read)
        return context

    def read(self, record: dict[str, Any]) -> Sample:
        """The image as the file has it, and the objects that count."""
        image = read_image(record["file_name"])
        annotated = (record["height"], record["width"])
        fault = size_fault((image.shape[-2], image.shape[-1]), annotated)
        if fault:
            raise DatasetError(f"{record['file_name']}: {fault}")
        wanted = ~record["iscrowd"] & self.is_train
        target = {
            "boxes": tv_tensors.BoundingBoxes(record["boxes"][wanted], format="XYXY", canvas_size=annotated),
            "labels": record["classes"][wanted],
        }
        if self.is_train and "segmentations" in record:
            target["masks"] = ObjectMasks(record_masks(record, wanted).view(torch.uint8))
        elif self.is_train and self.boxes_from_masks:
            raise DatasetError(
                f"{record['file_name']}: there are no masks to take boxes from: load the data set with masks=True"
            )
        return tv_tensors.Image(image), target

    def augment(
        self, image: tv_tensors.Image, target: dict[str, Any], **context: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Image and objects after the augmentation, which gets `context` too; boxes may have lost their area."""
        if self.augmentation is not None:
            image, target = self.augmentation(image, {**target, **context})
        if image.dtype != torch.uint8:
            raise ValueError(
                f"the augmentation turned the image from torch.uint8 into {image.dtype}; models "
                "normalise 0..255 by themselves, so leave out ToDtype and Normalize"
            )
        objects = {name: target[name].as_subclass(Tensor) for name in ("boxes", "labels", "masks") if name in target}
        return image.as_subclass(Tensor).contiguous(), objects

    def pack(self, record: dict[str, Any], image: Tensor, objects: dict[str, Tensor]) -> dict[str, Any]:
        """The parts as a model's input, without objects that have no area."""
        result = {
            "image": image,
            "height": record["height"],
            "width": record["width"],
            "image_id": record["image_id"],
            "file_name": record["file_name"],
        }
        if self.is_train:
            size = (image.shape[-2], image.shape[-1])
            instances = Instances(size, gt_boxes=Boxes(objects["boxes"]), gt_classes=objects["labels"])
            instances.gt_boxes.clip(size)
            left = instances.gt_boxes.nonempty()
            if "masks" in objects:
                masks = objects["masks"]
                if masks.shape != (len(instances), *size) or masks.dtype != torch.uint8:
                    raise ValueError(
                        f"the augmentation made masks {tuple(masks.shape)} in {masks.dtype} beside {len(instances)} "
                        f"boxes in an image of {size[0]}x{size[1]} (height x width): it must move and leave out both "
                        "together, and leave masks as uint8"
                    )
                instances.gt_masks = masks.view(torch.bool)
                if self.boxes_from_masks:
                    instances.gt_boxes = Boxes(masks_to_boxes(instances.gt_masks))
                    left = instances.gt_boxes.nonempty()
                else:
                    left &= has_pixels(instances.gt_masks)
            result["instances"] = instances if left.all() else instances[left]
        return result


def record_masks(record: dict[str, Any], wanted: Tensor | slice = slice(None)) -> Tensor:
    """The masks of a record of a data set.

    Args:
        record: with `segmentations`.
        wanted: (T,) bool, of which objects; all by default.

    Returns:
        (n, H, W) bool.

    Raises:
        DatasetError: when a file of masks cannot be read.
    """
    segmentations = record["segmentations"]
    ids = record["annotation_ids"][wanted].tolist()
    if isinstance(segmentations, list):
        rows = torch.arange(len(segmentations))[wanted].tolist()
        segmentations = [segmentations[row] for row in rows]
    else:
        segmentations = segmentations[wanted]
    return as_masks(segmentations, (record["height"], record["width"]), image=record["file_name"], ids=ids)
