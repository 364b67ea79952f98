"""One set of predictions: what a decoder layer says about its queries, and what that is compared with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .targets import Targets

# The name of the set that detections are made of: the last decoder layer's matching queries.
FINAL = ""


class Match(NamedTuple):
    """Pairs of queries and objects, M in the whole batch.

    Attributes:
        image: (M,) the image's position in the batch.
        query: (M,) the query's index in 0..Q-1.
        target: (M,) the object's index in the packed `Targets`.
        weight: (M,) what the losses of each pair are multiplied by, and what quality losses multiply the targets of
            their classes by; None for 1.
        shared_queries: whether a query may answer for several objects. Class losses then know it by the class of the
            last of them, as the published code does, which writes one label after the other.
        sizes: how many pairs each image has, where that is known without waiting for the device; None otherwise.
    """

    image: Tensor
    query: Tensor
    target: Tensor
    weight: Tensor | None = None
    shared_queries: bool = False
    sizes: Sequence[int] | None = None


class MaskFeatures(NamedTuple):
    """What the masks of a batch are read from: products with mask embeddings are logits of the cells.

    Attributes:
        tensor: (B, C, h, w).
        stride: a cell covers so many pixels of the network's input in each direction, beginning at its upper left
            corner; the last cells may reach beyond it.
        padding: (B, h, w) bool, True = padding; None when there is none.
    """

    tensor: Tensor
    stride: int
    padding: Tensor | None = None


class LayerOutput(NamedTuple):
    """What prediction heads read from the queries of one decoder layer.

    Attributes:
        logits: (B, Q, K) class logits; K + 1 for detectors that score "no object" as a last class.
        boxes: (B, Q, 4) cxcywh in 0..1 of each image without its padding.
        extra: further outputs by name, (B, Q, ...) each, such as mask embeddings or box distributions. Matching, losses
            and splitting treat them alike.
        name: of a set of predictions that a layer makes besides its own, such as "_pre" (see `name_layers`); None for
            the layer's.
        left_out: (B, Q) bool, True = a query that takes no part any more, see `Predictions.padding`; None when all do.
        mask_features: what the mask embeddings in `extra` are multiplied with, the same for all queries; None without
            masks.
    """

    logits: Tensor
    boxes: Tensor
    extra: Mapping[str, Tensor]
    name: str | None = None
    left_out: Tensor | None = None
    mask_features: MaskFeatures | None = None

    @classmethod
    def joined(cls, outputs: Sequence["LayerOutput | Predictions"]) -> "LayerOutput":
        """What several say about queries of their own, one after the other, with the further outputs of the first."""
        extra = {name: torch.cat([output.extra[name] for output in outputs], dim=1) for name in outputs[0].extra}
        logits, boxes = (
            torch.cat([getattr(output, part) for output in outputs], dim=1) for part in ("logits", "boxes")
        )
        return cls(logits, boxes, extra, mask_features=outputs[0].mask_features)

    def first(self, number: int) -> "LayerOutput":
        """The same of the first queries of each image."""
        extra = {name: value[:, :number] for name, value in self.extra.items()}
        left_out = None if self.left_out is None else self.left_out[:, :number]
        return self._replace(
            logits=self.logits[:, :number], boxes=self.boxes[:, :number], extra=extra, left_out=left_out
        )


@dataclass(frozen=True)
class Predictions:
    """A set of predictions, and how it is matched and weighted.

    Attributes:
        logits, boxes, extra, mask_features: see `LayerOutput`.
        reference: (B, Q, 2) points or (B, Q, 4) cxcywh boxes in 0..1 that the queries begin at, or boxes around tokens
            (B is 1 where they are the same for all images); None without any. Matchers may look at it.
        targets: what this set is compared with where that is not the batch's ground truth: objects, or a function from
            the batch's objects to them, such as `Targets.class_agnostic` for proposals.
        match: which query answers for which object where that is known, as in denoising; None to find it.
        num_groups: the queries are this many groups of equal size, one after the other, each of which is matched with
            all objects (Group DETR).
        repeats: how many queries answer for each object; losses are divided by it.
        weight: what all losses of this set are multiplied by, besides the weights of the criterion.
        query_weight: (B, Q), what losses that each query has are multiplied by; None for 1.
        padding: (B, Q) bool, True = a query that only fills up the batch, or has been left out by a decoder: nothing is
            matched with it, or detected by it, and it has no losses; None when there is none.
        image_sizes: (height, width) of each image as the network sees it, in pixels without padding, which
            `Detector.forward` adds for postprocessing; None where nobody has asked.
    """

    logits: Tensor
    boxes: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    reference: Tensor | None = None
    targets: Targets | Callable[[Targets], Targets] | None = None
    match: Match | None = None
    num_groups: int = 1
    repeats: int = 1
    weight: float = 1.0
    query_weight: Tensor | None = None
    padding: Tensor | None = None
    mask_features: MaskFeatures | None = None
    image_sizes: Sequence[tuple[int, int]] | None = None

    @classmethod
    def of(cls, output: LayerOutput, **fields: Any) -> "Predictions":
        """What heads said, and further fields."""
        padding = fields.pop("padding", None)
        if output.left_out is not None:
            padding = output.left_out if padding is None else padding | output.left_out
        return cls(
            output.logits, output.boxes, output.extra, padding=padding, mask_features=output.mask_features, **fields
        )

    def at_least_float32(self) -> "Predictions":
        """The same in float32 if it was in half precision: matching, losses and boxes need the digits.

        Features of masks, which are large and the same for many sets, stay as they are: who reads them converts them.
        """
        wide = [at_least_float32(value) for value in (self.logits, self.boxes)]
        extra = {name: at_least_float32(value) for name, value in self.extra.items()}
        return replace(self, logits=wide[0], boxes=wide[1], extra=extra)

    def packing_key(self) -> tuple[object, ...]:
        """Sets with equal keys can be put after each other and computed as one: same images, outputs and targets."""
        extra = tuple((name, value.shape[2:]) for name, value in self.extra.items())
        return len(self.logits), self.logits.shape[-1], extra, id(self.targets)


def at_least_float32(value: Tensor) -> Tensor:
    """A tensor in float32 if it was in half precision."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def with_targets(predictions: Mapping[str, Predictions], targets: Targets) -> dict[str, Predictions]:
    """The same sets, each with the objects that it is compared with: its own, or the batch's `targets`."""
    made: dict[Callable[[Targets], Targets], Targets] = {}

    def compared_with(own: Targets | Callable[[Targets], Targets] | None) -> Targets:
        if own is None:
            return targets
        if isinstance(own, Targets):
            return own
        if own not in made:  # once, so that sets with one function have one object and can be computed together
            made[own] = own(targets)
        return made[own]

    return {name: replace(given, targets=compared_with(given.targets)) for name, given in predictions.items()}


def name_of_layer(suffix: str, index: int, num_layers: int) -> str:
    """The name of a set of predictions: "" for the last layer, "_0", "_1", .. for those before it, and a suffix.

    Args:
        suffix: "" for matching queries. The layer's number comes first ("_0_one2many" for "_one2many"), unless "*" says
            where it goes ("_dn_0" for "_dn*").
        index: of the layer, from 0.
        num_layers: how many layers there are.
    """
    return _placed("" if index == num_layers - 1 else f"_{index}", suffix)


def _placed(name: str, suffix: str) -> str:
    return suffix.replace("*", name) if "*" in suffix else name + suffix


def name_layers(
    outputs: Sequence[LayerOutput], *, suffix: str = "", aux_loss: bool = True, **fields: Any
) -> dict[str, Predictions]:
    """Name the outputs of decoder layers as losses are named, see `name_of_layer`.

    Args:
        outputs: in the order of the layers; those with a name of their own have it in the place of a number.
        suffix: see `name_of_layer`.
        aux_loss: whether the layers before the last are returned.
        fields: of `Predictions`, the same for all.

    Returns:
        Name -> predictions, the last layer first, those with names of their own last.
    """
    layers = [output for output in outputs if output.name is None]
    first = 0 if aux_loss else len(layers) - 1
    order = [len(layers) - 1, *range(first, len(layers) - 1)]
    named = {name_of_layer(suffix, index, len(layers)): layers[index] for index in order}
    named |= {_placed(output.name, suffix): output for output in outputs if output.name is not None}
    return {name: Predictions.of(output, **fields) for name, output in named.items()}
