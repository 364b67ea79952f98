"""A decoder with distinct queries (DDQ, Zhang et al., CVPR 2023, section 3.2).

Legend: B batch, Q queries of all blocks, C channels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...ops.nms import nms_mask
from ...structures import box_cxcywh_to_xyxy
from ..decoder import DecoderState, Memory
from ..heads import DetectionHeads, LayerStep
from ..predictions import FINAL, LayerOutput
from ..queries import Queries
from .transformer import DeformableAnchorDecoder

# Names in `LayerStep.extra`, (B, Q) bool each: queries that are active in a layer, and in the next one.
TAKES_PART, TAKES_PART_NEXT = "takes_part", "takes_part_next"


class DistinctQueryDecoder(DeformableAnchorDecoder):
    """A decoder that applies non-maximum suppression to the matching queries after each layer but the last.

    Suppressed queries are inactive from the next layer on: they are neither matched nor used for detections
    (`LayerOutput.left_out`). Self-attention masks only pairs of two inactive queries, which works best according to the
    authors' code. Queries are ranked by their best class, computed without the norm of the heads, as in the authors'
    code. Other blocks of queries, such as denoising, are not suppressed.

    Args:
        iou_threshold: the largest IoU of two active matching queries.
        layer, num_layers, relation, recollection, embed_dim, scale_positions, temperature: see
            `DeformableAnchorDecoder`.
    """

    scores_every_layer = True

    def __init__(
        self,
        *,
        layer: nn.Module | Sequence[nn.Module],
        num_layers: int | None = None,
        relation: nn.Module | None = None,
        recollection: Sequence[Sequence[int]] | None = None,
        embed_dim: int = 256,
        scale_positions: bool = True,
        temperature: float = 10000.0,
        iou_threshold: float = 0.8,
    ):
        super().__init__(
            layer=layer,
            num_layers=num_layers,
            relation=relation,
            recollection=recollection,
            embed_dim=embed_dim,
            scale_positions=scale_positions,
            temperature=temperature,
        )
        self.iou_threshold = iou_threshold

    def forward(
        self,
        queries: Queries,
        memory: Memory,
        heads: DetectionHeads,
        *,
        training: bool = True,
        use_relation: bool = True,
    ) -> list[LayerOutput]:
        """See `Decoder.forward`.

        Raises:
            ValueError: for several groups of matching queries.
        """
        if any(block.suffix == FINAL for block in queries.blocks):
            heads = _DistinctHeads(heads, queries, self.iou_threshold, self.num_layers)  # type: ignore[assignment]
        return super().forward(queries, memory, heads, training=training, use_relation=use_relation)

    def layer_inputs(self, index: int, state: DecoderState) -> dict[str, Any]:
        """See `Decoder.layer_inputs`."""
        inputs = super().layer_inputs(index, state)
        extra = (state.steps[-1].extra if state.steps else None) or {}
        if TAKES_PART_NEXT not in extra:
            return inputs
        takes_part = extra[TAKES_PART_NEXT]
        hidden = ~(takes_part[:, :, None] | takes_part[:, None, :])
        bias = torch.zeros_like(hidden, dtype=state.query.dtype).masked_fill(hidden, float("-inf"))
        return inputs | {"self_attn_inputs": {"attn_bias": bias[:, None]}}


class _DistinctHeads:
    """Heads that also track, layer by layer, which queries are active; everything else is delegated."""

    def __init__(self, heads: DetectionHeads, queries: Queries, iou_threshold: float, num_layers: int):
        self.heads = heads
        self.iou_threshold = iou_threshold
        self.num_layers = num_layers
        self.begin = 0
        for block in queries.blocks:
            if block.suffix == FINAL:
                break
            self.begin += block.size
        if block.num_groups > 1:
            raise ValueError(f"DistinctQueryDecoder needs a single group of matching queries, got {block.num_groups}")
        self.end = self.begin + block.size
        self.first = torch.ones_like(queries.content[..., 0], dtype=torch.bool)
        if block.padding is not None:
            self.first[:, self.begin : self.end] = ~block.padding

    def __getattr__(self, name: str) -> Any:
        return getattr(self.heads, name)

    def step(self, index: int, query: Tensor, reference: Tensor | None, previous: LayerStep | None = None) -> LayerStep:
        step = self.heads.step(index, query, reference, previous)
        extra = (previous.extra if previous is not None else None) or {}
        active = extra.get(TAKES_PART_NEXT, self.first)
        next_active = (
            active if index == self.num_layers - 1 else self._next_active(index, query, step.reference, active)
        )
        return step._replace(extra={**(step.extra or {}), TAKES_PART: active, TAKES_PART_NEXT: next_active})

    @torch.no_grad()
    def _next_active(self, index: int, query: Tensor, reference: Tensor | None, active: Tensor) -> Tensor:
        assert reference is not None
        part = slice(self.begin, self.end)
        scores = self.heads.class_embed[index](query[:, part]).max(-1).values
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        scores = scores.masked_fill(~active[:, part], float("-inf"))
        kept = nms_mask(box_cxcywh_to_xyxy(reference[:, part].detach()), scores, self.iou_threshold)
        return torch.cat([active[:, : self.begin], kept & active[:, part], active[:, self.end :]], dim=1)

    def read(self, steps: Sequence[LayerStep]) -> list[LayerOutput]:
        outputs = self.heads.read(steps)
        of_layers = iter(steps[len(steps) - sum(output.name is None for output in outputs) :])
        return [output if output.name is not None else self._marked(output, next(of_layers)) for output in outputs]

    @staticmethod
    def _marked(output: LayerOutput, step: LayerStep) -> LayerOutput:
        assert step.extra is not None
        return output._replace(left_out=~step.extra[TAKES_PART])
