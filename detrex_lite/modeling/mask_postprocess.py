"""Conversion of predictions to detections with masks, in the frame of the original image.

Legend: B batch, D candidates of each image, n masks, C channels, h x w cells, H x W pixels of the frame.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..structures import Instances
from .masks import MASK_EMBEDDING, MASK_LOGITS, PART, features_of, masks_in_frame
from .postprocess import SoftmaxPostprocessor, TopKPostprocessor
from .predictions import Predictions


class MaskPostprocessor(TopKPostprocessor):
    """The best pairs of query and class, with the masks of the queries (Mask2Former; Mask DINO).

    Class scores are multiplied by the mean probability inside the mask; the best detections come first.

    Args:
        num_detections, clip_boxes: see `TopKPostprocessor`.
        num_things: number of thing classes of a panoptic model, which come first and are the only ones detected; None
            for all classes.
        rate_masks: whether scores include the probability of masks; False for class scores alone.
    """

    with_masks = True

    def __init__(
        self,
        num_detections: int = 100,
        *,
        clip_boxes: bool = True,
        num_things: int | None = None,
        rate_masks: bool = True,
    ):
        super().__init__(num_detections, clip_boxes=clip_boxes)
        self.num_things = num_things
        self.rate_masks = rate_masks

    def __call__(self, predictions: Predictions, sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        """sizes: (height, width) in pixels of the frame of each image's boxes and masks."""
        predictions = predictions.at_least_float32()
        _, classes, queries = self.best(predictions)
        is_detection = self.select(predictions).found
        if self.num_things is not None:
            is_detection = is_detection & (classes < self.num_things)
        results = []
        for number, instances in enumerate(super().__call__(predictions, sizes)):
            if self.num_things is not None:
                instances = instances[instances.pred_classes < self.num_things]
            masks, ratings = [], []
            for logits in masks_of_queries(predictions, number, queries[number][is_detection[number]], sizes[number]):
                inside = logits > 0
                masks.append(inside)
                ratings.append((logits.sigmoid() * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6))
            instances.pred_masks = torch.cat(masks)
            if self.rate_masks:
                instances.scores = instances.scores * torch.cat(ratings)
                instances = instances[instances.scores.argsort(descending=True, stable=True)]
            results.append(instances)
        return results

    def settings(self) -> dict[str, Any]:
        """See `Postprocessor.settings`."""
        return {
            "kind": "top_k_masks",
            "num_detections": self.num_detections,
            "clip_boxes": self.clip_boxes,
            "num_things": self.num_things,
            "rate_masks": self.rate_masks,
        }


def masks_of_queries(predictions: Predictions, image: int, queries: Tensor, size: tuple[int, int]) -> Iterator[Tensor]:
    """Compute logits of masks in a frame, in chunks of queries, because whole masks of large images need much memory.

    Args:
        predictions: with mask embeddings.
        image: index of the image in the batch.
        queries: (n,).
        size: (height, width) of the frame.

    Yields:
        (part, height, width); at least once.
    """
    features = features_of(predictions)
    cells, image_size = features.tensor[image], None
    if predictions.image_sizes is not None:
        image_size = predictions.image_sizes[image]
        height, width = (math.ceil(side / features.stride) for side in image_size)
        cells = cells[:, :height, :width]  # makes detections independent of the padding
    embeddings = predictions.extra[MASK_EMBEDDING][image]
    pixels = max(size[0] * size[1], cells.shape[1] * cells.shape[2] * features.stride**2)
    for some in queries.split(max(PART // pixels, 1)):
        maps = (embeddings[some] @ cells.flatten(1).to(embeddings.dtype)).unflatten(1, cells.shape[1:])
        yield masks_in_frame(maps, features.stride, image_size, size)


class SoftmaxMaskPostprocessor(SoftmaxPostprocessor):
    """The best class of each query other than "no object", with its mask (DETR, section 5).

    Args:
        clip_boxes: see `Postprocessor`.
        num_things: number of thing classes of a panoptic model, which come first and are the only ones detected; None
            for all classes.
        stride: of the cells of masks, in pixels.
    """

    with_masks = True

    def __init__(self, *, clip_boxes: bool = True, num_things: int | None = None, stride: int = 4):
        super().__init__(clip_boxes=clip_boxes)
        self.num_things = num_things
        self.stride = stride

    def __call__(self, predictions: Predictions, sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        """sizes: (height, width) in pixels of the frame of each image's boxes and masks."""
        predictions = predictions.at_least_float32()
        is_detection = self.select(predictions).found
        results = []
        for number, instances in enumerate(super().__call__(predictions, sizes)):
            queries = is_detection[number].nonzero().flatten()
            if self.num_things is not None:
                is_thing = instances.pred_classes < self.num_things
                queries, instances = queries[is_thing], instances[is_thing]
            masks = []
            for some in queries.split(max(PART // (sizes[number][0] * sizes[number][1]), 1)):
                inside = whole_masks(predictions, number, some, self.stride) > 0
                masks.append(F.interpolate(inside[:, None].float(), sizes[number], mode="nearest")[:, 0] > 0)
            instances.pred_masks = torch.cat(masks)
            results.append(instances)
        return results

    def settings(self) -> dict[str, Any]:
        """See `Postprocessor.settings`."""
        return {
            "kind": "softmax_masks",
            "clip_boxes": self.clip_boxes,
            "num_things": self.num_things,
            "stride": self.stride,
        }


def whole_masks(predictions: Predictions, image: int, queries: Tensor, stride: int) -> Tensor:
    """Compute logits of masks in the network's input without its padding.

    Args:
        predictions: with `MASK_LOGITS`.
        image: index of the image in the batch.
        queries: (n,).
        stride: of the cells.

    Returns:
        (n, height, width).
    """
    maps = predictions.extra[MASK_LOGITS][image]
    size = (maps.shape[-2] * stride, maps.shape[-1] * stride)
    if predictions.image_sizes is not None:
        size = predictions.image_sizes[image]
        height, width = (math.ceil(side / stride) for side in size)
        maps = maps[:, :height, :width]
    return F.interpolate(maps[queries, None], size, mode="bilinear", align_corners=False)[:, 0]
