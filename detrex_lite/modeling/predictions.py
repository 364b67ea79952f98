"""One set of predictions, and how a model names the sets that it returns."""

from typing import NamedTuple

import torch
from torch import Tensor

from .targets import Targets


class Match(NamedTuple):
    """Pairs of queries and objects, M in the whole batch.

    Attributes:
        image: (M,) the image's position in the batch.
        query: (M,) the query's index in 0..Q-1.
        target: (M,) the object's index in the packed `Targets`.
    """

    image: Tensor
    query: Tensor
    target: Tensor


class Predictions(NamedTuple):
    """What one decoder layer (or the encoder, or a denoising part) predicts.

    Attributes:
        logits: (B, Q, K) class logits; K + 1 for detectors that score "no object" as a last class.
        boxes: (B, Q, 4) cxcywh in 0..1 of each image without its padding.
        targets: what this set is compared with where that is not the batch's ground truth, such as
            `Targets.class_agnostic` for proposals.
        match: which query answers for which object where that is known, as in denoising; None to find it.
        repeats: how many queries each object has in a known match; losses are divided by it.
    """

    logits: Tensor
    boxes: Tensor
    targets: Targets | None = None
    match: Match | None = None
    repeats: int = 1

    def at_least_float32(self) -> "Predictions":
        """The same in float32 if it was in half precision: matching, losses and boxes need the digits."""
        logits, boxes = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (self.logits, self.boxes))
        return self._replace(logits=logits, boxes=boxes)


def name_layers(logits: Tensor, boxes: Tensor, *, aux_loss: bool = True) -> dict[str, Predictions]:
    """Name stacked decoder outputs as losses are named: "" for the last layer, "_0", "_1", .. for those before it.

    Args:
        logits: (layers, B, Q, K).
        boxes: (layers, B, Q, 4) cxcywh in 0..1.
        aux_loss: whether the layers before the last are returned.
    """
    *earlier, last = (Predictions(*layer) for layer in zip(logits, boxes, strict=True))
    named = {"": last}
    if aux_loss:
        named |= {f"_{index}": predictions for index, predictions in enumerate(earlier)}
    return named
