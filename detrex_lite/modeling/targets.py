"""The ground truth of a batch, packed: one tensor for all images, so that losses need no loop over images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..structures import box_xyxy_to_cxcywh


class PaddedTargets(NamedTuple):
    """The objects of a batch image by image, padded to the largest number T_max. Padding has class 0 and the box of
    a whole image.

    Attributes:
        labels: (B, T_max).
        boxes: (B, T_max, 4) cxcywh in 0..1.
        extra: further properties of objects by name, (B, T_max, ...) each; zeros in padding.
        sizes: the number of objects of each image.
    """

    labels: Tensor
    boxes: Tensor
    extra: Mapping[str, Tensor]
    sizes: list[int]


@dataclass(frozen=True)
class Targets:
    """The objects of a batch, image after image.

    Attributes:
        labels: (T,) class indices 0..K-1.
        boxes: (T, 4) cxcywh in 0..1 of each image without its padding.
        sizes: the number of objects of each image; they sum to T.
        extra: further properties of objects by name, (T, ...) each, such as masks.
    """

    labels: Tensor
    boxes: Tensor
    sizes: list[int]
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def from_inputs(cls, batched_inputs: Sequence[dict[str, Any]], *, num_classes: int, like: Tensor) -> "Targets":
        """Take `instances` of model inputs (`gt_boxes` absolute xyxy, `gt_classes`, `image_size`).

        Args:
            batched_inputs: the batch, in detectron2's input format.
            num_classes: K.
            like: boxes get its device, and its dtype when that is not a half.

        Raises:
            ValueError: when an input has no instances, or a label outside 0..K-1.
        """
        labels, boxes = [], []
        dtype = torch.promote_types(like.dtype, torch.float32)  # half precision cannot hold pixel coordinates
        for position, record in enumerate(batched_inputs):
            name = record.get("file_name", f"number {position} of the batch")
            if "instances" not in record:
                raise ValueError(f"image {name} has no 'instances': training needs ground truth")
            instances = record["instances"]
            classes = instances.gt_classes
            # Checked where the labels lie, on the CPU as loaders make them: on a GPU a bad index kills the process.
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
        return cls(
            torch.cat(labels).to(like.device, non_blocking=True),
            torch.cat(boxes).to(like.device, non_blocking=True),
            [len(classes) for classes in labels],
        )

    def class_agnostic(self) -> "Targets":
        """The same objects, all of class 0: what a score for "some object" is compared with."""
        return Targets(torch.zeros_like(self.labels), self.boxes, self.sizes, self.extra)

    def repeated(self, times: int) -> "Targets":
        """Each image's objects so many times, one round after the other: what one-to-many queries are matched with."""
        if times == 1:
            return self
        indices, first = [], 0
        for size in self.sizes:
            indices.append(torch.arange(first, first + size).repeat(times))
            first += size
        index = torch.cat(indices) if indices else torch.zeros(0, dtype=torch.int64)
        return self.selected(index.to(self.labels.device, non_blocking=True), [size * times for size in self.sizes])

    def selected(self, index: Tensor, sizes: list[int]) -> "Targets":
        """The objects at `index` (an int64 vector), of which each image has so many."""
        extra = {name: value[index] for name, value in self.extra.items()}
        return Targets(self.labels[index], self.boxes[index], sizes, extra)

    def padded(self) -> PaddedTargets:
        """The same image by image, see `PaddedTargets`."""
        shape = (len(self.sizes), max(self.sizes, default=0))
        labels, boxes = self.labels.new_zeros(shape), self.boxes.new_full((*shape, 4), 0.5)
        boxes[..., 2:] = 1.0
        extra = {name: value.new_zeros((*shape, *value.shape[1:])) for name, value in self.extra.items()}
        packed = [(labels, self.labels), (boxes, self.boxes), *((extra[name], self.extra[name]) for name in extra)]
        for padded, values in packed:
            for row, part in zip(padded, values.split(self.sizes), strict=True):
                row[: len(part)] = part
        return PaddedTargets(labels, boxes, extra, self.sizes)

    def __len__(self) -> int:
        """T, the number of objects."""
        return len(self.labels)
