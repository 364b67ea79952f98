"""Transformer layers as a list of operations, and stacks of them.

A layer's `operation_order` says everything about its architecture: DETR's post-norm encoder layer is
("self_attn", "norm", "ffn", "norm"), its pre-norm decoder layer ("norm", "self_attn", "norm", "cross_attn",
"norm", "ffn").
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import did_you_mean

OPERATIONS = ("self_attn", "cross_attn", "norm", "ffn")


class BaseTransformerLayer(nn.Module):
    """One transformer layer, run in any order of `self_attn`, `cross_attn`, `norm` and `ffn`.

    Every attention and feed-forward block adds its identity connection itself. In a post-norm layer that is the
    block's input; in a pre-norm layer (one whose order begins with `norm`) it is the value before the norm that
    precedes the block.

    Args:
        attn: the attention blocks in the order of use, or one block of which each attention gets a copy, with the
            same initial values.
        ffn: the feed-forward block, of which every `ffn` gets a copy.
        norm: the normalisation, of which every `norm` gets a copy.
        operation_order: names out of "self_attn", "cross_attn", "norm", "ffn", in the order in which they run.

    Attributes:
        activation_checkpointing: set to True, training computes what is inside the layer again in the backward pass
            instead of storing it (Chen et al., 2016).

    Raises:
        ValueError: for an empty order, an unknown operation, or a list of attentions of another length than the
            order has attentions.
    """

    def __init__(
        self,
        *,
        attn: nn.Module | Sequence[nn.Module],
        ffn: nn.Module,
        norm: nn.Module,
        operation_order: Sequence[str],
    ):
        super().__init__()
        self.operation_order = tuple(operation_order)
        if not self.operation_order:
            raise ValueError(f"operation_order is empty; give a sequence out of {', '.join(OPERATIONS)}")
        for operation in self.operation_order:
            if operation not in OPERATIONS:
                raise ValueError(f"unknown operation {operation!r}{did_you_mean(operation, OPERATIONS)}")
        num_attentions = sum(operation.endswith("_attn") for operation in self.operation_order)
        if isinstance(attn, nn.Module) and not isinstance(attn, nn.ModuleList):
            attn = [copy.deepcopy(attn) for _ in range(num_attentions)]
        if len(attn) != num_attentions:
            raise ValueError(
                f"{len(attn)} attention blocks were given, but operation_order={self.operation_order} "
                f"has {num_attentions}"
            )
        self.attentions = nn.ModuleList(attn)
        self.activation_checkpointing = False
        self.ffns = nn.ModuleList(copy.deepcopy(ffn) for _ in range(self.operation_order.count("ffn")))
        self.norms = nn.ModuleList(copy.deepcopy(norm) for _ in range(self.operation_order.count("norm")))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.activation_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(super().__call__, *args, use_reentrant=False, **kwargs)
        return super().__call__(*args, **kwargs)

    @property
    def pre_norm(self) -> bool:
        """Whether the layer normalises before its blocks."""
        return self.operation_order[0] == "norm"

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        *,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        self_attn_mask: Tensor | None = None,
        cross_attn_mask: Tensor | None = None,
        query_key_padding_mask: Tensor | None = None,
        key_padding_mask: Tensor | None = None,
        self_attn_inputs: dict[str, Any] | None = None,
        cross_attn_inputs: dict[str, Any] | None = None,
    ) -> Tensor:
        """Run the operations in order.

        Args:
            query: (B, Q, C).
            key: (B, N, C), the memory that cross-attention reads.
            value: (B, N, C); `key` when None.
            query_pos: added to queries, and to the keys of self-attention, (B, Q, C) or what broadcasts to it.
            key_pos: added to the keys of cross-attention, (B, N, C) or what broadcasts to it.
            self_attn_mask: bool, True = not attended, in self-attention; see MultiheadAttention.
            cross_attn_mask: the same in cross-attention.
            query_key_padding_mask: (B, Q) bool, True = padding, for self-attention.
            key_padding_mask: (B, N) bool, True = padding, for cross-attention.
            self_attn_inputs: further arguments for the self-attention blocks, e.g. reference points.
            cross_attn_inputs: further arguments for the cross-attention blocks.

        Returns:
            (B, Q, C).
        """
        attentions, ffns, norms = iter(self.attentions), iter(self.ffns), iter(self.norms)
        identity = query
        for operation in self.operation_order:
            if operation == "norm":
                normalised = next(norms)(query)
                identity = query if self.pre_norm else normalised
                query = normalised
                continue
            if operation == "self_attn":
                query = next(attentions)(
                    query,
                    identity=identity,
                    query_pos=query_pos,
                    key_pos=query_pos,
                    attn_mask=self_attn_mask,
                    key_padding_mask=query_key_padding_mask,
                    **(self_attn_inputs or {}),
                )
            elif operation == "cross_attn":
                query = next(attentions)(
                    query,
                    key,
                    value,
                    identity=identity,
                    query_pos=query_pos,
                    key_pos=key_pos,
                    attn_mask=cross_attn_mask,
                    key_padding_mask=key_padding_mask,
                    **(cross_attn_inputs or {}),
                )
            else:
                query = next(ffns)(query, identity=identity)
            identity = query
        return query


class TransformerLayerSequence(nn.Module):
    """A stack of layers. Subclasses write `forward`; this one keeps the layers.

    Args:
        transformer_layers: one layer, of which `num_layers` copies are made, with the same initial values (draw them
            again where layers should differ), or the layers themselves.
        num_layers: how many layers; may be left out when a list is given.

    Raises:
        ValueError: when a list has another length than `num_layers`, or one layer comes without `num_layers`.
    """

    def __init__(self, transformer_layers: nn.Module | Sequence[nn.Module], num_layers: int | None = None):
        super().__init__()
        if isinstance(transformer_layers, nn.Module) and not isinstance(transformer_layers, nn.ModuleList):
            if num_layers is None:
                raise ValueError("one layer was given: num_layers must say how many copies to make")
            transformer_layers = [copy.deepcopy(transformer_layers) for _ in range(num_layers)]
        elif num_layers is not None and len(transformer_layers) != num_layers:
            raise ValueError(f"{len(transformer_layers)} layers were given, but num_layers={num_layers}")
        self.layers = nn.ModuleList(transformer_layers)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.layers)
