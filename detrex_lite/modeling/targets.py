"""The ground truth of a batch, packed: one tensor for all images, so that losses need no loop over images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..structures import box_xyxy_to_cxcywh


@dataclass(frozen=True)
class Targets:
    """The objects of a batch, image after image.

    Attributes:
        labels: (T,) class indices 0..K-1.
        boxes: (T, 4) cxcywh in 0..1 of each image without its padding.
        sizes: the number of objects of each image; they sum to T.
    """

    labels: Tensor
    boxes: Tensor
    sizes: list[int]

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
        for position, one in enumerate(batched_inputs):
            name = one.get("file_name", f"number {position} of the batch")
            if "instances" not in one:
                raise ValueError(f"image {name} has no 'instances': training needs ground truth")
            instances = one["instances"]
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
            [len(one) for one in labels],
        )

    def class_agnostic(self) -> "Targets":
        """The same objects, all of class 0: what a score for "some object" is compared with."""
        return replace(self, labels=torch.zeros_like(self.labels))

    def padded(self) -> tuple[Tensor, Tensor]:
        """Per image, padded to the largest: labels (B, T_max), boxes (B, T_max, 4). Padding is class 0, a whole box."""
        shape = (len(self.sizes), max(self.sizes, default=0))
        labels, boxes = self.labels.new_zeros(shape), self.boxes.new_full((*shape, 4), 0.5)
        boxes[..., 2:] = 1.0
        for row, (one_labels, one_boxes) in enumerate(
            zip(self.labels.split(self.sizes), self.boxes.split(self.sizes), strict=True)
        ):
            labels[row, : len(one_labels)] = one_labels
            boxes[row, : len(one_boxes)] = one_boxes
        return labels, boxes

    def __len__(self) -> int:
        """T, the number of objects."""
        return len(self.labels)
