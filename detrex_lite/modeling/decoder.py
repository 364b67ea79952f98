"""The loop that all decoders share: layer after layer, references move, and at the end classes and boxes are read.

Legend: B batch, Q queries, N tokens of the memory, C channels, H heads.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..layers import TokenGrid, TransformerLayerSequence
from .heads import DetectionHeads, LayerStep
from .multi_scale import TokenLevels
from .predictions import LayerOutput
from .queries import Queries


class Memory(NamedTuple):
    """What an encoder hands to a decoder.

    Attributes:
        tokens: (B, N, C).
        pos: (B, N, C) or (1, N, C), positions of the tokens, with 2 C channels where those of x and of y are apart;
            None where the decoder has no use for them.
        padding: (B, N) bool, True = padding that is not attended to; None when there is none.
        levels: where the tokens are, in detectors with several feature levels; None in others.
        grid: the map whose cells are the tokens, in detectors with one feature map; None in others.
    """

    tokens: Tensor
    pos: Tensor | None
    padding: Tensor | None
    levels: TokenLevels | None = None
    grid: TokenGrid | None = None

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
        queries: what the decoder was given.
        memory: what the layers read.
    """

    query: Tensor
    reference: Tensor | None
    steps: Sequence[LayerStep]
    queries: Queries
    memory: Memory


class Decoder(TransformerLayerSequence):
    """Queries that attend to each other and read from the memory. Subclasses say what else goes into each layer.

    Args:
        layer: one layer, of which `num_layers` copies with initial values of their own are made, or the layers.
        num_layers: how many layers; may be left out when a list is given.
        relation: makes an additive bias of self-attention of the boxes that the two layers before predicted (the first
            references, where they are boxes, stand for those before the first layer), see `PositionRelation`; None for
            no bias.
        num_eval_layers: evaluation runs only so many of the layers, which is faster; None for all.

    Raises:
        ValueError: when `num_eval_layers` is not in 1 .. the number of layers.
    """

    scores_every_layer = False  # whether classes are read after each layer in evaluation, too

    def __init__(
        self,
        *,
        layer: nn.Module | Sequence[nn.Module],
        num_layers: int | None = None,
        relation: nn.Module | None = None,
        num_eval_layers: int | None = None,
    ):
        super().__init__(layer, num_layers)
        if num_eval_layers is not None and not 1 <= num_eval_layers <= self.num_layers:
            raise ValueError(f"num_eval_layers={num_eval_layers}: this decoder has {self.num_layers} layers")
        self.relation = relation
        self.num_eval_layers = num_eval_layers

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
            One output for each layer that ran, for the queries of all blocks.
        """
        query, reference = queries.content, self.first_reference(queries)
        steps: list[LayerStep] = []
        relation = self.relation if use_relation else None
        boxes = [] if reference is None or reference.shape[-1] != 4 else [reference]  # that queries are related by
        for index, layer in enumerate(self.layers if training else self.layers[: self.num_eval_layers]):
            state = DecoderState(query, reference, steps, queries, memory)
            inputs = self.layer_inputs(index, state)
            inputs["self_attn_inputs"] = _self_attention_inputs(inputs, queries, relation, boxes)
            inputs["cross_attn_inputs"] = grid_input(layer, "cross_attn", memory.grid) | inputs.get(
                "cross_attn_inputs", {}
            )
            query = layer(
                query,
                memory.tokens,
                key_pos=memory.pos,
                key_padding_mask=memory.padding,
                self_attn_mask=queries.attn_mask,
                **inputs,
            )
            steps.append(heads.step(index, query, reference, steps[-1] if steps else None))
            reference = steps[-1].reference
            if relation is not None and index < self.num_layers - 1:
                boxes.append(heads.read_boxes(steps[-1]))
                steps[-1] = steps[-1]._replace(boxes=boxes[-1])
        return heads.read(steps)


def grid_input(layer: nn.Module, operation: str, grid: TokenGrid | None) -> dict[str, Any]:
    """The map whose cells are the keys, for the blocks of a layer that require it, `RowColumnDecoupledAttention`.

    Args:
        layer: a `BaseTransformerLayer`; others get nothing.
        operation: "self_attn" or "cross_attn".
        grid: None where the keys are no map.
    """
    required = getattr(layer, "required_inputs", {})
    return {"grid": grid} if grid is not None and "grid" in required.get(operation, ()) else {}


def _self_attention_inputs(
    layer_inputs: dict[str, Any], queries: Queries, relation: nn.Module | None, boxes: Sequence[Tensor]
) -> dict[str, Any]:
    """What `layer_inputs` has for self-attention, and groups and relations of queries; biases are added up."""
    inputs: dict[str, Any] = dict(layer_inputs.get("self_attn_inputs", {}))
    if queries.num_groups > 1:
        inputs["num_groups"] = queries.num_groups
    if relation is not None and len(boxes) > 1:
        before, after = boxes[-2:]
        if queries.num_groups > 1:  # groups are folded into the batch: (B, G * q, 4) to (B * G, q, 4)
            before, after = (value.unflatten(1, (queries.num_groups, -1)).flatten(0, 1) for value in (before, after))
        bias = relation(before, after)
        inputs["attn_bias"] = bias + inputs["attn_bias"] if "attn_bias" in inputs else bias
    return inputs
