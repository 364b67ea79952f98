"""Conversion of a data set's records to model inputs."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from ..structures import (
    Boxes,
    Instances,
    as_masks,
    filled_segmentations,
    has_pixels,
    masks_to_boxes,
    run_lengths,
)
from .faults import DatasetError, size_fault
from .image import read_image
from .object_masks import ObjectMasks

Sample = tuple[tv_tensors.Image, dict[str, Any]]
"""An image and a dictionary of its objects, as torchvision's transforms take them."""


class DetrDatasetMapper:
    """Reads the image, augments it together with its objects, and packs both for a model.

    If records have masks (`load_coco(masks=True)`), these are drawn at the size of the image, passed to the
    augmentation as an `ObjectMasks`, and objects whose mask becomes empty are removed.

    Args:
        augmentation: a transform of torchvision v2, called with the image and a dictionary of `boxes` and `labels`, and
            of `masks` if there are any; None for none. If the record has them, the dictionary also contains `epoch`,
            the number of the run's epoch, and `draw`, a function that returns another image of the data set and its
            dictionary. It must keep pixels as uint8, because models normalise them.
        is_train: whether to include the objects as `instances`.
        boxes_from_masks: whether boxes are computed from the augmented masks, as in Mask DINO (Li et al., CVPR 2023);
            otherwise they are the annotated boxes, clipped to the image.
    """

    def __init__(
        self, *, augmentation: Callable[..., Any] | None = None, is_train: bool, boxes_from_masks: bool = False
    ):
        self.augmentation = augmentation
        self.is_train = is_train
        self.boxes_from_masks = boxes_from_masks

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Convert one record to a model input.

        Args:
            record: a record of a `DetectionDataset`, in training with `epoch` and `draw` (`build_train_loader`).

        Returns:
            `image` (3, H, W) uint8 RGB; `height` and `width` of the original in pixels; `image_id`,
            `file_name`; in training `instances` with `gt_boxes` (`Boxes`, xyxy in pixels of `image`),
            `gt_classes` (T,) and, if the record has masks, `gt_masks` (T, H, W) bool, without crowds and without
            objects that have no area after the augmentation.

        Raises:
            DatasetError: when the image or a mask cannot be read, or does not have the annotated size.
            ValueError: when the augmentation changes the type of the pixels or does not keep the fields consistent, or
                when boxes are to be computed from masks and the record has none.
        """
        image, target = self.augment(*self.read(record), **self.context(record))
        return self.pack(record, image, target)

    def context(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return further inputs of the augmentation: `epoch` and `draw`, if the record has them."""
        context = {"epoch": record["epoch"]} if "epoch" in record else {}
        if "draw" in record:
            context["draw"] = lambda: record["draw"](self.read)
        return context

    def read(self, record: dict[str, Any]) -> Sample:
        """Read the image and the objects that are not ignored."""
        image = read_image(record["file_name"])
        annotated = (record["height"], record["width"])
        fault = size_fault((image.shape[-2], image.shape[-1]), annotated)
        if fault:
            raise DatasetError(f"{record['file_name']}: {fault}")
        is_used = ~record["iscrowd"] & self.is_train
        target = {
            "boxes": tv_tensors.BoundingBoxes(record["boxes"][is_used], format="XYXY", canvas_size=annotated),
            "labels": record["classes"][is_used],
        }
        if self.is_train and "segmentations" in record:
            target["masks"] = ObjectMasks(record_masks(record, is_used).view(torch.uint8))
        elif self.is_train and self.boxes_from_masks:
            raise ValueError(
                f"{record['file_name']}: there are no masks to take boxes from: load the data set with masks=True"
            )
        return tv_tensors.Image(image), target

    def augment(
        self, image: tv_tensors.Image, target: dict[str, Any], **context: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Augment image and objects; `context` is passed on. Boxes may lose their area."""
        names = [*target]
        if self.augmentation is not None:
            image, target = self.augmentation(image, {**target, **context})
            if lost := [name for name in names if name not in target]:
                raise ValueError(f"the augmentation returned a target without {', '.join(map(repr, lost))}")
        if image.dtype != torch.uint8:
            raise ValueError(
                f"the augmentation turned the image from torch.uint8 into {image.dtype}; models "
                "normalise 0..255 by themselves, so leave out ToDtype and Normalize"
            )
        objects: dict[str, Tensor] = {name: target[name].as_subclass(Tensor) for name in names}
        return image.as_subclass(Tensor).contiguous(), objects

    def pack(self, record: dict[str, Any], image: Tensor, objects: dict[str, Tensor]) -> dict[str, Any]:
        """Pack the parts as a model input, without objects that have no area."""
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
            is_visible = instances.gt_boxes.nonempty()
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
                    is_visible = instances.gt_boxes.nonempty()
                else:
                    is_visible &= has_pixels(instances.gt_masks)
            result["instances"] = instances if is_visible.all() else instances[is_visible]
        return result


def record_masks(record: dict[str, Any], selected: Tensor | slice = slice(None)) -> Tensor:
    """Read the masks of a data set's record.

    Args:
        record: a record with `segmentations`.
        selected: (T,) bool, the objects to read; all by default.

    Returns:
        (n, H, W) bool.

    Raises:
        DatasetError: when a file of masks cannot be read.
    """
    segmentations = record["segmentations"]
    ids = record["annotation_ids"][selected].tolist()
    if isinstance(segmentations, list):
        rows = torch.arange(len(segmentations))[selected].tolist()
        segmentations = [segmentations[row] for row in rows]
    else:
        segmentations = segmentations[selected]
    return as_masks(segmentations, (record["height"], record["width"]), image=record["file_name"], ids=ids)


def record_run_lengths(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Read the masks of a data set's record as compressed run lengths.

    Args:
        record: a record with `segmentations`.

    Returns:
        {"size": [H, W], "counts": text} for each of the T objects.

    Raises:
        DatasetError: when a file of masks cannot be read.
    """
    segmentations = record["segmentations"]
    if not isinstance(segmentations, list):  # the masks are in a file of pixels
        return run_lengths(record_masks(record))
    return [
        {"size": run_length["size"], "counts": run_length["counts"].decode("ascii")}
        for run_length in filled_segmentations(segmentations, (record["height"], record["width"]))
    ]
