"""Panoptic segmentation: masks of things and stuff as one map, in which each pixel belongs to at most one segment.

Thing classes come before stuff classes. Results have detectron2's form: an int32 map (height, width) of ids, 0 for no
segment, and for each segment its `id`, `isthing`, `category_id` (the class), `score` and `area` in pixels.

Legend: Q queries, n segments, K classes, H x W pixels of the frame.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .mask_postprocess import masks_of_queries, whole_masks
from .predictions import Predictions

Segments = tuple[Tensor, list[dict[str, Any]]]


class MaskFormerPanoptic:
    """Assigns each pixel to the mask with the highest score times probability (Cheng et al., NeurIPS 2021, 3.4).

    Segments that lose most of their area are dropped. Segments of the same stuff class are merged.

    Args:
        num_things: number of thing classes.
        threshold: queries are dropped if the probability of their best class is lower.
        overlap: segments are dropped if they keep a smaller fraction of their mask.
        temperature: of a softmax over the classes' probabilities, which makes scores comparable when classes are
            trained independently (Mask DINO); None for unchanged probabilities.
    """

    def __init__(
        self, *, num_things: int, threshold: float = 0.25, overlap: float = 0.8, temperature: float | None = 0.06
    ):
        self.num_things = num_things
        self.threshold = threshold
        self.overlap = overlap
        self.temperature = temperature

    def __call__(self, predictions: Predictions, sizes: Sequence[tuple[int, int]]) -> list[Segments]:
        """sizes: (height, width) in pixels of the frame of each image's segments."""
        predictions = predictions.at_least_float32()
        return [self._of_image(predictions, number, size) for number, size in enumerate(sizes)]

    def _of_image(self, predictions: Predictions, number: int, size: tuple[int, int]) -> Segments:
        probability = predictions.logits[number].sigmoid()
        kept = (probability.amax(-1) > self.threshold).nonzero().flatten()
        if self.temperature is not None:
            probability = (probability / self.temperature).softmax(-1)
        scores, classes = (values[kept] for values in probability.max(-1))
        best = scores.new_full(size, -1.0)
        owner = torch.full(size, -1, device=scores.device)
        inside = []
        first = 0
        for logits in masks_of_queries(predictions, number, kept, size):
            mask = logits.sigmoid()
            inside.append(mask >= 0.5)
            if not len(mask):
                continue
            highest, which = (mask * scores[first : first + len(mask), None, None]).max(0)
            owner = torch.where(highest > best, which + first, owner)  # the first mask wins a tie
            best = torch.maximum(best, highest)
            first += len(mask)
        return self._joined(owner, torch.cat(inside), scores.tolist(), classes.tolist())

    def _joined(self, owner: Tensor, inside: Tensor, scores: list[float], classes: list[int]) -> Segments:
        """owner: (H, W) the mask that each pixel is assigned to; inside: (n, H, W) bool."""
        ids = torch.zeros_like(owner, dtype=torch.int32)
        segments: list[dict[str, Any]] = []
        of_stuff: dict[int, dict[str, Any]] = {}
        for number, (mask, score, label) in enumerate(zip(inside, scores, classes, strict=True)):
            owned = owner == number
            visible = owned & mask
            kept_area, owned_area, area = (int(pixels.sum()) for pixels in (owned, mask, visible))
            if not area or kept_area / owned_area < self.overlap:
                continue
            segment = of_stuff.get(label)
            if segment is None:
                segment = {"id": len(segments) + 1, "isthing": label < self.num_things, "category_id": label}
                segment |= {"score": score, "area": 0}
                segments.append(segment)
                if not segment["isthing"]:
                    of_stuff[label] = segment
            ids[visible] = segment["id"]
            segment["area"] += area
        return ids, segments


class SoftmaxPanoptic:
    """Assigns each pixel to the mask with the highest logit (DETR, section 5), as in the paper's repository.

    Masks of the same stuff class are merged into the first of them. Segments with at most four pixels are dropped, and
    all pixels are assigned again to the remaining masks, without merging: the pixels of a mask that was merged into
    another one, and therefore dropped, are assigned to the next best mask.

    Args:
        num_things: number of thing classes.
        threshold: queries are dropped if the probability of their best class is lower.
        stride: of the cells of masks, in pixels.
    """

    def __init__(self, *, num_things: int, threshold: float = 0.85, stride: int = 4):
        self.num_things = num_things
        self.threshold = threshold
        self.stride = stride

    def __call__(self, predictions: Predictions, sizes: Sequence[tuple[int, int]]) -> list[Segments]:
        """sizes: (height, width) in pixels of the frame of each image's segments."""
        predictions = predictions.at_least_float32()
        return [self._of_image(predictions, number, size) for number, size in enumerate(sizes)]

    def _of_image(self, predictions: Predictions, number: int, size: tuple[int, int]) -> Segments:
        scores, classes = predictions.logits[number].softmax(-1).max(-1)
        kept = (scores > self.threshold) & (classes < predictions.logits.shape[-1] - 1)
        scores, classes = scores[kept], classes[kept]
        masks = whole_masks(predictions, number, kept.nonzero().flatten(), self.stride)
        owner, areas = self._owners(masks, size, classes.tolist())
        while len(masks) and bool((areas <= 4).any()):
            large = areas > 4
            masks, scores, classes = masks[large], scores[large], classes[large]
            owner, areas = self._owners(masks, size)
        segments = [
            {"id": index + 1, "isthing": label < self.num_things, "category_id": label, "score": score, "area": area}
            for index, (label, score, area) in enumerate(
                zip(classes.tolist(), scores.tolist(), areas.tolist(), strict=True)
            )
        ]
        return (owner + 1).to(torch.int32), segments

    def _owners(self, masks: Tensor, size: tuple[int, int], classes: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Return the mask that each pixel of the frame is assigned to, (height, width), and the mask areas, (n,).

        Masks are merged by `classes`.
        """
        if not len(masks):
            return torch.full(size, -1, device=masks.device), torch.zeros(0, dtype=torch.int64, device=masks.device)
        owner = masks.argmax(0)
        firsts: dict[int, int] = {}
        for number, label in enumerate(classes):
            if label >= self.num_things and firsts.setdefault(label, number) != number:
                owner[owner == number] = firsts[label]
        owner = F.interpolate(owner[None, None].double(), size, mode="nearest-exact")[0, 0].to(torch.int64)
        return owner, torch.bincount(owner.flatten(), minlength=len(masks))
