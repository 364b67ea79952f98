"""What losses are computed from: several sets of predictions at once, one after the other.

A detector with six layers, two stages and denoising has thirteen sets. On a GPU operators on tensors as small as these
take as long to launch as to compute, and losses of all sets together launch a tenth of what a loop over sets would.

Legend: S sets, B batch, R queries of all sets of an image, M matched pairs of all sets, K classes.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..predictions import Match, Predictions
from ..targets import Targets


@dataclass(frozen=True)
class Comparison:
    """Sets of predictions, and the objects that they are compared with.

    Attributes:
        logits: (B, R, K) class logits; K + 1 for detectors that score "no object" as a last class.
        image: (M,) the image of each matched pair, in 0..B-1.
        query: (M,) the query that answers for the object, in 0..R-1.
        boxes: (M, 4) the box that it predicts, cxcywh in 0..1.
        labels: (M,) the class of the object.
        target_boxes: (M, 4) its box, cxcywh in 0..1.
        num_boxes: (S,) what sums over a set are divided by: its number of objects per process, at least 1, times the
            `repeats` of its predictions.
        queries_per_set: S numbers that sum to R.
        matched_per_set: S numbers that sum to M.
    """

    logits: Tensor
    image: Tensor
    query: Tensor
    boxes: Tensor
    labels: Tensor
    target_boxes: Tensor
    num_boxes: Tensor
    queries_per_set: list[int]
    matched_per_set: list[int]

    @classmethod
    def of(
        cls, predictions: Sequence[Predictions], matches: Sequence[Match], targets: Targets, num_boxes: Tensor
    ) -> "Comparison":
        """Put sets after each other that have the same batch size, classes and targets.

        Args:
            predictions: the sets.
            matches: of each set.
            targets: what all of them are compared with.
            num_boxes: (S,), see above.
        """
        sizes = [one.logits.shape[1] for one in predictions]
        first = itertools.accumulate(sizes, initial=0)
        image, target = (torch.cat([getattr(one, name) for one in matches]) for name in ("image", "target"))
        query = torch.cat([one.query + start for one, start in zip(matches, first, strict=False)])
        return cls(
            logits=torch.cat([one.logits for one in predictions], dim=1),
            image=image,
            query=query,
            boxes=torch.cat([one.boxes for one in predictions], dim=1)[image, query],
            labels=targets.labels[target],
            target_boxes=targets.boxes[target],
            num_boxes=num_boxes,
            queries_per_set=sizes,
            matched_per_set=[len(one.query) for one in matches],
        )

    def sum_of_queries(self, values: Tensor) -> Tensor:
        """Add up what each query has, (B, R), for each set: (S,)."""
        return _sums(values.sum(0), self.queries_per_set)

    def sum_of_matched(self, values: Tensor) -> Tensor:
        """Add up what each matched pair has, (M,), for each set: (S,)."""
        return _sums(values, self.matched_per_set)


def _sums(values: Tensor, sizes: list[int]) -> Tensor:
    if len(set(sizes)) == 1:  # as a rule: one operator for all
        return values.view(len(sizes), sizes[0]).sum(1)
    return torch.stack([part.sum() for part in values.split(sizes)])
