"""A set of predictions: the outputs of a decoder layer for its queries, and how they are matched."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .targets import Targets

# The name of the set of the detections: the matching queries of the last decoder layer.
FINAL = ""


class Match(NamedTuple):
    """Pairs of queries and objects, M in the whole batch.

    Attributes:
        image: (M,) the index of the image in the batch.
        query: (M,) the index of the query in 0..Q-1.
        target: (M,) the index of the object in the packed `Targets`.
        weight: (M,) factor of the losses of each pair, and of the class targets of quality losses; None for 1.
        shared_queries: whether a query may be matched with several objects. Class losses then use the class of the last
            one, as in the published code, which overwrites labels one after the other.
        sizes: number of pairs of each image, if it is known without synchronising with the device; otherwise None.
    """

    image: Tensor
    query: Tensor
    target: Tensor
    weight: Tensor | None = None
    shared_queries: bool = False
    sizes: Sequence[int] | None = None


class MaskFeatures(NamedTuple):
    """The features of a batch's masks: their products with mask embeddings are the logits of the cells.

    Attributes:
        tensor: (B, C, h, w).
        stride: side of a cell in pixels of the network's input; the first cell starts at its upper left corner, and the
            last cells may extend beyond it.
        padding: (B, h, w) bool, True = padding; None without padding.
    """

    tensor: Tensor
    stride: int
    padding: Tensor | None = None


class LayerOutput(NamedTuple):
    """The outputs of prediction heads for the queries of one decoder layer.

    Attributes:
        logits: (B, Q, K) class logits; K + 1 for detectors with "no object" as the last class.
        boxes: (B, Q, 4) cxcywh in 0..1 of each image without its padding.
        extra: further outputs by name, (B, Q, ...) each, such as mask embeddings or box distributions. Matching, losses
            and splitting treat all of them alike.
        name: name of a further set of predictions of a layer, such as "_pre" (see `name_layers`); None for the layer's
            main set.
        left_out: (B, Q) bool, True = an inactive query, see `Predictions.padding`; None when all are active.
        mask_features: features that the mask embeddings in `extra` are multiplied with, shared by all queries; None
            without masks.
    """

    logits: Tensor
    boxes: Tensor
    extra: Mapping[str, Tensor]
    name: str | None = None
    left_out: Tensor | None = None
    mask_features: MaskFeatures | None = None

    @classmethod
    def joined(cls, outputs: Sequence["LayerOutput | Predictions"]) -> "LayerOutput":
        """Concatenate the queries of several outputs, with the further outputs that the first one has."""
        extra = {name: torch.cat([output.extra[name] for output in outputs], dim=1) for name in outputs[0].extra}
        logits, boxes = (
            torch.cat([getattr(output, part) for output in outputs], dim=1) for part in ("logits", "boxes")
        )
        return cls(logits, boxes, extra, mask_features=outputs[0].mask_features)

    def first(self, number: int) -> "LayerOutput":
        """Return the outputs of the first queries of each image."""
        extra = {name: value[:, :number] for name, value in self.extra.items()}
        left_out = None if self.left_out is None else self.left_out[:, :number]
        return self._replace(
            logits=self.logits[:, :number], boxes=self.boxes[:, :number], extra=extra, left_out=left_out
        )


@dataclass(frozen=True)
class Predictions:
    """A set of predictions, with its targets, match and weights.

    Attributes:
        logits, boxes, extra, mask_features: see `LayerOutput`.
        reference: (B, Q, 2) points or (B, Q, 4) cxcywh boxes in 0..1 that the queries start from, or boxes around
            tokens (B is 1 when all images share them); None without references. Matchers may use it.
        targets: the targets of this set, if they are not the ground truth of the batch: objects, or a function that
            maps the batch's objects to them, such as `Targets.class_agnostic` for proposals.
        match: the match of queries and objects, if it is known, as in denoising; None to compute it.
        num_groups: number of consecutive groups of queries of equal size, each of which is matched with all objects
            (Group DETR).
        repeats: number of queries matched with each object; losses are divided by it.
        weight: factor of all losses of this set, in addition to the weights of the criterion.
        query_weight: (B, Q), factor of the losses of each query; None for 1.
        padding: (B, Q) bool, True = a query that only pads the batch or that a decoder has made inactive: it is not
            matched, gives no detection, and has no loss; None without padding.
        image_sizes: (height, width) of each image as the network sees it, in pixels without padding, which
            `Detector.forward` adds for postprocessing; otherwise None.
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
        """Make predictions of the outputs of heads and further fields."""
        padding = fields.pop("padding", None)
        if output.left_out is not None:
            padding = output.left_out if padding is None else padding | output.left_out
        return cls(
            output.logits, output.boxes, output.extra, padding=padding, mask_features=output.mask_features, **fields
        )

    def at_least_float32(self) -> "Predictions":
        """Convert half precision to float32, which matching, losses and boxes need.

        Mask features, which are large and shared by many sets, are not converted; their users convert them.
        """
        wide = [at_least_float32(value) for value in (self.logits, self.boxes)]
        extra = {name: at_least_float32(value) for name, value in self.extra.items()}
        return replace(self, logits=wide[0], boxes=wide[1], extra=extra)

    def packing_key(self) -> tuple[object, ...]:
        """Sets with equal keys can be concatenated and computed together: same images, outputs and targets."""
        extra = tuple((name, value.shape[2:]) for name, value in self.extra.items())
        return len(self.logits), self.logits.shape[-1], extra, id(self.targets)


def at_least_float32(value: Tensor) -> Tensor:
    """Convert half precision to float32."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def with_targets(predictions: Mapping[str, Predictions], targets: Targets) -> dict[str, Predictions]:
    """Set the targets of each set of predictions: its own, or those of the batch, `targets`."""
    computed: dict[Callable[[Targets], Targets], Targets] = {}

    def compared_with(targets_of_set: Targets | Callable[[Targets], Targets] | None) -> Targets:
        if targets_of_set is None:
            return targets
        if isinstance(targets_of_set, Targets):
            return targets_of_set
        if (
            targets_of_set not in computed
        ):  # cached, so that sets with the same function share one object and are computed together
            computed[targets_of_set] = targets_of_set(targets)
        return computed[targets_of_set]

    return {
        name: replace(predicted, targets=compared_with(predicted.targets)) for name, predicted in predictions.items()
    }


def name_of_layer(suffix: str, index: int, num_layers: int) -> str:
    """Name a set of predictions: "" for the last layer, "_0", "_1", ... for earlier layers, plus a suffix.

    Args:
        suffix: "" for matching queries. The number of the layer comes first ("_0_one2many" for "_one2many"), unless "*"
            marks its position ("_dn_0" for "_dn*").
        index: index of the layer, from 0.
        num_layers: number of layers.
    """
    return _insert_suffix("" if index == num_layers - 1 else f"_{index}", suffix)


def _insert_suffix(name: str, suffix: str) -> str:
    return suffix.replace("*", name) if "*" in suffix else name + suffix


def name_layers(
    outputs: Sequence[LayerOutput], *, suffix: str = "", aux_loss: bool = True, **fields: Any
) -> dict[str, Predictions]:
    """Name the outputs of decoder layers like their losses; see `name_of_layer`.

    Args:
        outputs: in the order of the layers; for outputs with a name, it replaces the number.
        suffix: see `name_of_layer`.
        aux_loss: whether to include the layers before the last.
        fields: fields of `Predictions` that all sets share.

    Returns:
        Maps names to predictions, the last layer first and outputs with a name last.
    """
    layers = [output for output in outputs if output.name is None]
    first = 0 if aux_loss else len(layers) - 1
    order = [len(layers) - 1, *range(first, len(layers) - 1)]
    named = {name_of_layer(suffix, index, len(layers)): layers[index] for index in order}
    named |= {_insert_suffix(output.name, suffix): output for output in outputs if output.name is not None}
    return {name: Predictions.of(output, **fields) for name, output in named.items()}
