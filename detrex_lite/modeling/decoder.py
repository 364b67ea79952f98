"""The decoder loop: run the layers, update the references, and finally predict classes and boxes.

Legend: B batch, Q queries, N tokens of the memory, C channels, H heads.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..layers import TokenGrid, TransformerLayerSequence
from .heads import DetectionHeads, LayerStep
from .multi_scale import TokenLevels
from .predictions import LayerOutput, MaskFeatures
from .queries import Queries
from .recollection import check_schedule


class Memory(NamedTuple):
    """The encoder's output, which the decoder reads.

    Attributes:
        tokens: (B, N, C).
        pos: (B, N, C) or (1, N, C), positions of the tokens, with 2 C channels when x and y are separate; None if the
            decoder does not use them.
        padding: (B, N) bool, True = padding that is not attended to; None without padding.
        levels: the layout of the tokens, in detectors with several feature levels; otherwise None.
        grid: the map whose cells are the tokens, in detectors with one feature map; otherwise None.
        losses: maps names to weighted scalar losses of the selection of tokens.
        mask_features: the features that masks are computed from; None in detectors without masks.
    """

    tokens: Tensor
    pos: Tensor | None
    padding: Tensor | None
    levels: TokenLevels | None = None
    grid: TokenGrid | None = None
    losses: Mapping[str, Tensor] = MappingProxyType({})
    mask_features: MaskFeatures | None = None

    def require_levels(self) -> TokenLevels:
        """Return the levels of a memory that must have them.

        Raises:
            ValueError: when it has none.
        """
        if self.levels is None:
            raise ValueError("this part needs a memory with feature levels: use it with a MultiScaleTransformer")
        return self.levels


class DecoderState(NamedTuple):
    """The state before a layer runs.

    Attributes:
        query: (B, Q, C), the input of the layer.
        reference: (B, Q, 2) points or (B, Q, 4) cxcywh boxes in 0..1 that the layer attends to; None without
            references.
        steps: results of the previous layers.
        queries: the decoder's queries; with recollection, repeated for each set of queries.
        memory: the encoder's output.
    """

    query: Tensor
    reference: Tensor | None
    steps: Sequence[LayerStep]
    queries: Queries
    memory: Memory


class _Set(NamedTuple):
    """A set of input queries of a layer: the initial queries, or the result of an earlier layer.

    Attributes:
        query: (B, Q, C).
        reference: (B, Q, 2) or (B, Q, 4), the references of a layer that reads this set; None without references.
        step: the result that the set was made from; None for the initial queries in the first layer.
        boxes: (B, Q, 4) each, the boxes of the last two layers that led to this set, for relations.
    """

    query: Tensor
    reference: Tensor | None
    step: LayerStep | None
    boxes: tuple[Tensor, ...]


class Decoder(TransformerLayerSequence):
    """Queries that attend to each other and to the memory. Subclasses define the further inputs of each layer.

    Args:
        layer: one layer, of which `num_layers` copies with newly drawn initial values are made, or a list of layers.
        num_layers: number of layers; optional with a list.
        relation: computes an additive bias of self-attention from the boxes that the two previous layers predicted;
            reference boxes count as the prediction before the first layer. See `PositionRelation`; None for no bias.
        num_eval_layers: number of layers that evaluation runs, to save time; None for all.
        recollection: the earlier results that each layer decodes in training, see `selective_recollection`; None for
            only those of the previous layer.

    Raises:
        ValueError: when `num_eval_layers` is not in 1 .. the number of layers, or the recollection is not a schedule
            for this number of layers.
    """

    scores_every_layer = False  # whether evaluation also computes the classes of every layer

    def __init__(
        self,
        *,
        layer: nn.Module | Sequence[nn.Module],
        num_layers: int | None = None,
        relation: nn.Module | None = None,
        num_eval_layers: int | None = None,
        recollection: Sequence[Sequence[int]] | None = None,
    ):
        super().__init__(layer, num_layers)
        if num_eval_layers is not None and not 1 <= num_eval_layers <= self.num_layers:
            raise ValueError(f"num_eval_layers={num_eval_layers}: this decoder has {self.num_layers} layers")
        self.relation = relation
        self.num_eval_layers = num_eval_layers
        self.recollection = None if recollection is None else check_schedule(recollection, self.num_layers)

    def first_reference(self, queries: Queries) -> Tensor | None:
        """Return the references of the first layer.

        Returns:
            (B, Q, 2) points or (B, Q, 4) cxcywh boxes in 0..1; None without references.
        """
        return queries.reference

    def layer_inputs(self, index: int, state: DecoderState) -> dict[str, Any]:
        """Return the further inputs of a layer; subclasses extend them by `super().layer_inputs(...) | {...}`.

        Args:
            index: of the layer, from 0.
            state: the state before it runs.

        Returns:
            Keyword arguments of `BaseTransformerLayer.forward`: `query_pos`, and further arguments of the attention
            blocks as `self_attn_inputs` and `cross_attn_inputs`. A bias of self-attention is `{"attn_bias": ...}` in
            the former: float and broadcastable to (B, H, Q, Q) with H heads; masks and other biases are combined with
            it. With `queries.num_groups` G > 1, groups of q queries are folded into the batch, and it is
            (B * G, H, q, q).
        """
        return {}

    def forward(
        self,
        queries: Queries,
        memory: Memory,
        heads: DetectionHeads,
        *,
        training: bool = True,
        use_relation: bool = True,
    ) -> list[LayerOutput]:
        """Decode.

        Args:
            queries: blocks of queries.
            memory: the encoder's result.
            heads: predict classes and boxes from the queries, and update the references.
            training: whether losses are computed; detections may need fewer layers, see `num_eval_layers`.
            use_relation: whether self-attention has the bias of `relation`.

        Returns:
            One output for each layer that ran, for the queries of all blocks; with recollection, one for each set of
            queries of each layer. The last output belongs to the queries that went through all layers. The output of
            `DetectionHeads.read_initial`, if any, comes first.

        Raises:
            ValueError: when a layer would combine earlier results with points and with boxes as references.
        """
        relation = self.relation if use_relation else None
        recollection = self.recollection if training else None
        reference = self.first_reference(queries)
        related = (reference,) if relation is not None and reference is not None and reference.shape[-1] == 4 else ()
        stages = [[_Set(queries.content, reference, None, related)]]
        steps: list[LayerStep] = []
        for index, layer in enumerate(self.layers if training else self.layers[: self.num_eval_layers]):
            sets = stages[-1] if recollection is None else _recollected(stages, recollection[index], heads)
            set_queries = queries.side_by_side(len(sets))
            query = _concatenate_sets([query_set.query for query_set in sets])
            reference = (
                None if sets[0].reference is None else _concatenate_sets([query_set.reference for query_set in sets])
            )
            state = DecoderState(query, reference, steps, set_queries, memory)
            inputs = self.layer_inputs(index, state)
            bias = (
                None
                if relation is None
                else _bias(relation, [query_set.boxes for query_set in sets], queries.num_groups)
            )
            inputs["self_attn_inputs"] = _self_attention_inputs(inputs, set_queries, bias)
            inputs["cross_attn_inputs"] = grid_input(layer, "cross_attn", memory.grid) | inputs.get(
                "cross_attn_inputs", {}
            )
            query = layer(
                query,
                memory.tokens,
                key_pos=memory.pos,
                key_padding_mask=memory.padding,
                self_attn_mask=set_queries.attn_mask,
                **inputs,
            )
            new_sets = []
            results = [query] if len(sets) == 1 else query.chunk(len(sets), dim=1)
            for query_set, result in zip(sets, results, strict=True):
                step = heads.step(index, result, query_set.reference, query_set.step)
                boxes = query_set.boxes
                if relation is not None and index < self.num_layers - 1:
                    predicted_boxes = heads.read_boxes(step)
                    step, boxes = step._replace(boxes=predicted_boxes), (*boxes, predicted_boxes)[-2:]
                new_sets.append(_Set(result, step.reference, step, boxes))
                steps.append(step)
            stages.append(new_sets)
        outputs = [*heads.read_initial(queries.content, stages[0][0].reference), *heads.read(steps)]
        if memory.mask_features is None:
            return outputs
        return [output._replace(mask_features=memory.mask_features) for output in outputs]


def grid_input(layer: nn.Module, operation: str, grid: TokenGrid | None) -> dict[str, Any]:
    """Return the argument `grid` for blocks that require it, such as `RowColumnDecoupledAttention`.

    Args:
        layer: a `BaseTransformerLayer`; other layers get no argument.
        operation: "self_attn" or "cross_attn".
        grid: the map whose cells are the keys; None when the keys are not a map.
    """
    required = getattr(layer, "required_inputs", {})
    return {"grid": grid} if grid is not None and "grid" in required.get(operation, ()) else {}


def _recollected(stages: Sequence[list[_Set]], stage_numbers: Sequence[int], heads: DetectionHeads) -> list[_Set]:
    """Collect the sets of some stages; layers after the first treat the initial queries as the result of a layer."""
    sets = [query_set for number in stage_numbers for query_set in stages[number]]
    if len(stages) > 1 and sets[0].step is None:
        step = heads.start(sets[0].query, sets[0].reference)
        sets[0] = sets[0]._replace(reference=step.reference, step=step)
    return sets


def _concatenate_sets(values: Sequence[Tensor | None]) -> Tensor:
    """Concatenate (B, Q, ...) of several sets to (B, sets * Q, ...)."""
    tensors = [value for value in values if value is not None]
    if len({value.shape[-1] for value in tensors}) > 1:
        raise ValueError(
            "recollection combines queries with points and with boxes as references: use queries that start as boxes, "
            "or remove stage 0 from the lists of later layers"
        )
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=1)


def _bias(relation: nn.Module, boxes_of_sets: Sequence[tuple[Tensor, ...]], num_groups: int) -> Tensor | None:
    """Compute the self-attention bias of a relation, (B * sets * groups, H, q, q).

    It is zero for sets without boxes of two layers, and None when no set has them.
    """
    biases = [
        None if len(boxes) < 2 else relation(*(_fold(layer_boxes, num_groups) for layer_boxes in boxes))
        for boxes in boxes_of_sets
    ]
    first_bias = next((bias for bias in biases if bias is not None), None)
    if first_bias is None or len(biases) == 1:
        return first_bias
    full = [torch.zeros_like(first_bias) if bias is None else bias for bias in biases]
    return torch.stack([bias.unflatten(0, (-1, num_groups)) for bias in full], dim=1).flatten(0, 2)


def _fold(values: Tensor, num_groups: int) -> Tensor:
    """Fold groups into the batch: (B, G * q, ...) to (B * G, q, ...)."""
    return values if num_groups == 1 else values.unflatten(1, (num_groups, -1)).flatten(0, 1)


def _self_attention_inputs(layer_inputs: dict[str, Any], queries: Queries, bias: Tensor | None) -> dict[str, Any]:
    """Add the number of groups and the bias to the self-attention inputs; biases are summed."""
    inputs: dict[str, Any] = dict(layer_inputs.get("self_attn_inputs", {}))
    if queries.num_groups > 1:
        inputs["num_groups"] = queries.num_groups
    if bias is not None:
        inputs["attn_bias"] = bias + inputs["attn_bias"] if "attn_bias" in inputs else bias
    return inputs
