"""The ground truth of a batch, packed into one tensor for all images, so that losses need no loop over images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..structures import box_xyxy_to_cxcywh
from ..structures.masks import as_masks

# Names in `Targets.extra`.
MASKS = "masks"
IMAGE_SIZE = "image_size"


class PaddedTargets(NamedTuple):
    """The objects of a batch by image, padded to the largest number T_max. Padding has class 0 and the box of a whole
    image.

    Attributes:
        labels: (B, T_max).
        boxes: (B, T_max, 4) cxcywh in 0..1.
        extra: further properties of objects by name, (B, T_max, ...) each; zeros in padding. Properties are padded on
            access.
        packed: the same objects without padding.
        sizes: the number of objects of each image.
    """

    labels: Tensor
    boxes: Tensor
    extra: Mapping[str, Tensor]
    packed: "Targets"

    @property
    def sizes(self) -> list[int]:
        return self.packed.sizes


@dataclass(frozen=True)
class Targets:
    """The objects of a batch, ordered by image.

    Attributes:
        labels: (T,) class indices 0..K-1.
        boxes: (T, 4) cxcywh in 0..1 of each image without its padding.
        sizes: the number of objects of each image; they sum to T.
        extra: further properties of objects by name, (T, ...) each, such as "masks": (T, H, W) bool in the frame of the
            padded batch, False in the padding; and "image_size": (T, 2) width and height of the object's image in
            pixels, as the network sees it, without padding.
    """

    labels: Tensor
    boxes: Tensor
    sizes: list[int]
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_inputs(
        cls,
        batched_inputs: Sequence[dict[str, Any]],
        *,
        num_classes: int,
        like: Tensor,
        with_masks: bool = False,
        with_image_sizes: bool = False,
    ) -> "Targets":
        """Convert the `instances` of model inputs (`gt_boxes` absolute xyxy, `gt_classes`, `image_size`, `gt_masks`).

        Args:
            batched_inputs: the batch, in detectron2's input format.
            num_classes: K.
            like: the padded images, (B, 3, H, W). Boxes get their device and, unless it is half precision, their dtype.
            with_masks: whether to include masks, in any form that `as_masks` reads.
            with_image_sizes: whether to include the image size of each object.

        Raises:
            ValueError: when an input has no instances, a label outside 0..K-1, or no masks although `with_masks`.
        """
        labels, boxes, masks, image_sizes = [], [], [], []
        dtype = torch.promote_types(like.dtype, torch.float32)  # half precision cannot hold pixel coordinates
        for position, record in enumerate(batched_inputs):
            name = record.get("file_name", f"number {position} of the batch")
            if "instances" not in record:
                raise ValueError(f"image {name} has no 'instances': training needs ground truth")
            instances = record["instances"]
            classes = instances.gt_classes
            # Labels are checked on the CPU, where loaders create them: on a GPU a bad index kills the process.
            wrong = classes[(classes < 0) | (classes >= num_classes)]
            if len(wrong):
                raise ValueError(
                    f"image {name} has label {int(wrong[0])}, but the model has num_classes={num_classes} "
                    f"(labels 0..{num_classes - 1})"
                )
            height, width = instances.image_size
            xyxy = instances.gt_boxes.tensor.to(dtype)
            boxes.append(box_xyxy_to_cxcywh(xyxy / xyxy.new_tensor([width, height, width, height])))
            labels.append(classes.to(torch.int64))
            image_sizes.append(xyxy.new_tensor([[width, height]]).expand(len(classes), 2))
            if with_masks:
                masks.append(_masks_of(instances, name))
        sizes = [len(classes) for classes in labels]
        extra = {MASKS: _in_one_frame(masks, like)} if with_masks else {}
        if with_image_sizes:
            extra[IMAGE_SIZE] = torch.cat(image_sizes).to(like.device, non_blocking=True)
        return cls(
            torch.cat(labels).to(like.device, non_blocking=True),
            torch.cat(boxes).to(like.device, non_blocking=True),
            sizes,
            extra,
        )

    def class_agnostic(self) -> "Targets":
        """Return the same objects with class 0, as targets of an objectness score."""
        return Targets(torch.zeros_like(self.labels), self.boxes, self.sizes, self.extra)

    def repeated(self, times: int) -> "Targets":
        """Repeat the objects of each image, one round after the other, for one-to-many matching."""
        if times == 1:
            return self
        indices, first = [], 0
        for size in self.sizes:
            indices.append(torch.arange(first, first + size).repeat(times))
            first += size
        index = torch.cat(indices) if indices else torch.zeros(0, dtype=torch.int64)
        return self.selected(index.to(self.labels.device, non_blocking=True), [size * times for size in self.sizes])

    def selected(self, index: Tensor, sizes: list[int]) -> "Targets":
        """Return the objects at `index` (an int64 vector); `sizes` are their numbers per image."""
        extra = {name: value[index] for name, value in self.extra.items()}
        return Targets(self.labels[index], self.boxes[index], sizes, extra)

    def padded(self) -> PaddedTargets:
        """Return the objects padded by image, see `PaddedTargets`."""
        whole_image = self.boxes.new_full((4,), 0.5)
        whole_image[2:] = 1.0
        return PaddedTargets(self.pad(self.labels), self.pad(self.boxes, whole_image), _PaddedExtra(self), self)

    def pad(self, values: Tensor, padding: Tensor | None = None) -> Tensor:
        """Pad values of objects, (T, ...), by image: (B, T_max, ...).

        Args:
            values: (T, ...).
            padding: the value without an object, (...); None for zeros.
        """
        shape = len(self.sizes), max(self.sizes, default=0), *values.shape[1:]
        padded = values.new_zeros(shape) if padding is None else padding.expand(shape).clone()
        for row, part in zip(padded, values.split(self.sizes), strict=True):
            row[: len(part)] = part
        return padded

    def __len__(self) -> int:
        """Number of objects, T."""
        return len(self.labels)


def pixels_of_images(extra: Mapping[str, Tensor]) -> Tensor:
    """Return the factors that convert xyxy boxes in 0..1 to pixels of their image.

    Args:
        extra: further properties of objects, (..., 2) under "image_size".

    Returns:
        (..., 4) width, height, width, height.

    Raises:
        ValueError: when the image sizes are missing.
    """
    if IMAGE_SIZE not in extra:
        raise ValueError(
            f"boxes are compared in pixels, but objects have no {IMAGE_SIZE!r}: create targets by "
            "Targets.from_inputs(with_image_sizes=True), as Detector.targets does"
        )
    sizes = extra[IMAGE_SIZE]
    return torch.cat([sizes, sizes], dim=-1)


class _PaddedExtra(Mapping[str, Tensor]):
    """Further properties of objects, padded on access, because copies of masks are large."""

    def __init__(self, targets: Targets):
        self._targets = targets

    def __getitem__(self, name: str) -> Tensor:
        return self._targets.pad(self._targets.extra[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets.extra)

    def __len__(self) -> int:
        return len(self._targets.extra)


def _masks_of(instances: Any, name: str) -> Tensor:
    """Return the masks of an image, (n, h, w) bool."""
    if not instances.has("gt_masks"):
        raise ValueError(
            f"image {name} has no 'gt_masks', which this model's losses need: use a data set with masks, and a mapper "
            "that loads them"
        )
    masks = as_masks(instances.gt_masks, instances.image_size, image=f"image {name}")
    if len(masks) != len(instances.gt_classes):
        raise ValueError(f"image {name} has {len(masks)} masks, but {len(instances.gt_classes)} objects")
    return masks


def _in_one_frame(masks: Sequence[Tensor], like: Tensor) -> Tensor:
    """Pad the masks of all images at the right and the bottom: (T, H, W) for images (B, 3, H, W)."""
    framed = torch.zeros(sum(map(len, masks)), *like.shape[-2:], dtype=torch.bool, device=like.device)
    first = 0
    for image_masks in masks:
        framed[first : first + len(image_masks), : image_masks.shape[1], : image_masks.shape[2]] = image_masks.to(
            like.device, non_blocking=True
        )
        first += len(image_masks)
    return framed
