"""The loop that all decoders share: layer after layer, references move, and at the end classes and boxes are read.

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
    """What an encoder hands to a decoder.

    Attributes:
        tokens: (B, N, C).
        pos: (B, N, C) or (1, N, C), positions of the tokens, with 2 C channels where those of x and of y are apart;
            None where the decoder has no use for them.
        padding: (B, N) bool, True = padding that is not attended to; None when there is none.
        levels: where the tokens are, in detectors with several feature levels; None in others.
        grid: the map whose cells are the tokens, in detectors with one feature map; None in others.
        losses: name -> weighted loss, a scalar, of what chose the tokens.
        mask_features: what masks are read from; None in detectors without masks.
    """

    tokens: Tensor
    pos: Tensor | None
    padding: Tensor | None
    levels: TokenLevels | None = None
    grid: TokenGrid | None = None
    losses: Mapping[str, Tensor] = MappingProxyType({})
    mask_features: MaskFeatures | None = None

    def require_levels(self) -> TokenLevels:
        """The levels, of a memory that must have them.

        Raises:
            ValueError: when it has none.
        """
        if self.levels is None:
            raise ValueError("this part needs a memory with feature levels: use it with a MultiScaleTransformer")
        return self.levels


class DecoderState(NamedTuple):
    """What is known before a layer runs.

    Attributes:
        query: (B, Q, C), what the layer gets.
        reference: (B, Q, 2) points or (B, Q, 4) cxcywh boxes in 0..1 that it attends to; None without references.
        steps: what the layers before have left behind.
        queries: what the decoder was given; with recollection side by side, as often as there are sets of queries.
        memory: what the layers read.
    """

    query: Tensor
    reference: Tensor | None
    steps: Sequence[LayerStep]
    queries: Queries
    memory: Memory


class _Set(NamedTuple):
    """Queries that a layer takes: the first ones, or what a layer before made of them.

    Attributes:
        query: (B, Q, C).
        reference: (B, Q, 2) or (B, Q, 4), what a layer that takes them attends to; None without references.
        step: what made them; None for the first queries in the first layer.
        boxes: (B, Q, 4) each, those that led here one after the other, for relations.
    """

    query: Tensor
    reference: Tensor | None
    step: LayerStep | None
    boxes: tuple[Tensor, ...]


class Decoder(TransformerLayerSequence):
    """Queries that attend to each other and read from the memory. Subclasses say what else goes into each layer.

    Args:
        layer: one layer, of which `num_layers` copies with initial values of their own are made, or the layers.
        num_layers: how many layers; may be left out when a list is given.
        relation: makes an additive bias of self-attention of the boxes that the two layers before predicted (the first
            references, where they are boxes, stand for those before the first layer), see `PositionRelation`; None for
            no bias.
        num_eval_layers: evaluation runs only so many of the layers, which is faster; None for all.
        recollection: which earlier results each layer decodes in training, see `selective_recollection`; None for those
            of the layer before alone.

    Raises:
        ValueError: when `num_eval_layers` is not in 1 .. the number of layers, or the recollection is no schedule for
            this number of layers.
    """

    scores_every_layer = False  # whether classes are read after each layer in evaluation, too

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
        """What the first layer attends to.

        Returns:
            (B, Q, 2) points or (B, Q, 4) cxcywh boxes in 0..1; None without references.
        """
        return queries.reference

    def layer_inputs(self, index: int, state: DecoderState) -> dict[str, Any]:
        """What a layer gets besides queries and memory; a subclass adds its own by `super().layer_inputs(...) | {...}`.

        Args:
            index: of the layer, from 0.
            state: what is known before it runs.

        Returns:
            Keyword arguments of `BaseTransformerLayer.forward`: `query_pos`, further arguments of attention blocks as
            `self_attn_inputs` and `cross_attn_inputs`. A bias of self-attention is `{"attn_bias": ..}` in the former,
            float, (B, H, Q, Q) or what broadcasts to it, with H heads; masks and other biases come on top. With
            `queries.num_groups` G > 1, where groups of q queries are folded into the batch, it is (B * G, H, q, q).
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
            heads: read classes and boxes from the queries, and move the references.
            training: whether losses are wanted; detections may take fewer layers, see `num_eval_layers`.
            use_relation: whether self-attention has the bias that `relation` makes.

        Returns:
            One output for each layer that ran, for the queries of all blocks; with recollection one for each set of
            queries of each layer. The last one is that of queries which went through all layers. Before them comes that
            of `DetectionHeads.read_initial`, if there is one.

        Raises:
            ValueError: when a layer cannot take earlier results together, as some refer to points and some to boxes.
        """
        relation = self.relation if use_relation else None
        recollection = self.recollection if training else None
        reference = self.first_reference(queries)
        related = (reference,) if relation is not None and reference is not None and reference.shape[-1] == 4 else ()
        stages = [[_Set(queries.content, reference, None, related)]]
        steps: list[LayerStep] = []
        for index, layer in enumerate(self.layers if training else self.layers[: self.num_eval_layers]):
            sets = stages[-1] if recollection is None else _recollected(stages, recollection[index], heads)
            given = queries.side_by_side(len(sets))
            query = _side_by_side([one.query for one in sets])
            reference = None if sets[0].reference is None else _side_by_side([one.reference for one in sets])
            state = DecoderState(query, reference, steps, given, memory)
            inputs = self.layer_inputs(index, state)
            bias = None if relation is None else _bias(relation, [one.boxes for one in sets], queries.num_groups)
            inputs["self_attn_inputs"] = _self_attention_inputs(inputs, given, bias)
            inputs["cross_attn_inputs"] = grid_input(layer, "cross_attn", memory.grid) | inputs.get(
                "cross_attn_inputs", {}
            )
            query = layer(
                query,
                memory.tokens,
                key_pos=memory.pos,
                key_padding_mask=memory.padding,
                self_attn_mask=given.attn_mask,
                **inputs,
            )
            made = []
            results = [query] if len(sets) == 1 else query.chunk(len(sets), dim=1)
            for one, result in zip(sets, results, strict=True):
                step = heads.step(index, result, one.reference, one.step)
                boxes = one.boxes
                if relation is not None and index < self.num_layers - 1:
                    found = heads.read_boxes(step)
                    step, boxes = step._replace(boxes=found), (*boxes, found)[-2:]
                made.append(_Set(result, step.reference, step, boxes))
                steps.append(step)
            stages.append(made)
        outputs = [*heads.read_initial(queries.content, stages[0][0].reference), *heads.read(steps)]
        if memory.mask_features is None:
            return outputs
        return [output._replace(mask_features=memory.mask_features) for output in outputs]


def grid_input(layer: nn.Module, operation: str, grid: TokenGrid | None) -> dict[str, Any]:
    """The map whose cells are the keys, for the blocks of a layer that require it, `RowColumnDecoupledAttention`.

    Args:
        layer: a `BaseTransformerLayer`; others get nothing.
        operation: "self_attn" or "cross_attn".
        grid: None where the keys are no map.
    """
    required = getattr(layer, "required_inputs", {})
    return {"grid": grid} if grid is not None and "grid" in required.get(operation, ()) else {}


def _recollected(stages: Sequence[list[_Set]], numbers: Sequence[int], heads: DetectionHeads) -> list[_Set]:
    """The sets of some stages; a later layer than the first takes the first queries as if a layer had made them."""
    sets = [one for number in numbers for one in stages[number]]
    if len(stages) > 1 and sets[0].step is None:
        step = heads.start(sets[0].query, sets[0].reference)
        sets[0] = sets[0]._replace(reference=step.reference, step=step)
    return sets


def _side_by_side(values: Sequence[Tensor | None]) -> Tensor:
    """(B, Q, ...) of several sets to (B, sets * Q, ...)."""
    given = [value for value in values if value is not None]
    if len({value.shape[-1] for value in given}) > 1:
        raise ValueError(
            "recollection joins queries that refer to points with such that refer to boxes: let queries begin as "
            "boxes, or leave stage 0 out of the lists of later layers"
        )
    return given[0] if len(given) == 1 else torch.cat(given, dim=1)


def _bias(relation: nn.Module, boxes_of_sets: Sequence[tuple[Tensor, ...]], num_groups: int) -> Tensor | None:
    """What a relation adds to self-attention, (B * sets * groups, H, q, q), zero for sets without boxes of two layers.

    None when no set has boxes of two layers.
    """
    biases = [
        None if len(boxes) < 2 else relation(*(_fold(one, num_groups) for one in boxes)) for boxes in boxes_of_sets
    ]
    known = next((bias for bias in biases if bias is not None), None)
    if known is None or len(biases) == 1:
        return known
    full = [torch.zeros_like(known) if bias is None else bias for bias in biases]
    return torch.stack([bias.unflatten(0, (-1, num_groups)) for bias in full], dim=1).flatten(0, 2)


def _fold(values: Tensor, num_groups: int) -> Tensor:
    """Groups are folded into the batch: (B, G * q, ...) to (B * G, q, ...)."""
    return values if num_groups == 1 else values.unflatten(1, (num_groups, -1)).flatten(0, 1)


def _self_attention_inputs(layer_inputs: dict[str, Any], queries: Queries, bias: Tensor | None) -> dict[str, Any]:
    """What `layer_inputs` has for self-attention, with the groups of queries; biases are added up."""
    inputs: dict[str, Any] = dict(layer_inputs.get("self_attn_inputs", {}))
    if queries.num_groups > 1:
        inputs["num_groups"] = queries.num_groups
    if bias is not None:
        inputs["attn_bias"] = bias + inputs["attn_bias"] if "attn_bias" in inputs else bias
    return inputs
