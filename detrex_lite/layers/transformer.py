"""Transformer layers as a list of operations, and stacks of them.

A layer's `operation_order` says everything about its architecture: DETR's post-norm encoder layer is
("self_attn", "norm", "ffn", "norm"), its pre-norm decoder layer ("norm", "self_attn", "norm", "cross_attn",
"norm", "ffn").
"""

import copy
import functools
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import did_you_mean
from .copies import copies, draw_again

OPERATIONS = ("self_attn", "cross_attn", "norm", "ffn")
ATTENTION_INPUTS = frozenset(
    ("query", "key", "value", "identity", "query_pos", "key_pos", "attn_mask", "key_padding_mask")
)
"""What a layer gives to every attention."""


class BaseTransformerLayer(nn.Module):
    """One transformer layer, run in any order of `self_attn`, `cross_attn`, `norm` and `ffn`.

    Every attention and feed-forward block adds its identity connection itself. In a post-norm layer that is the
    block's input; in a pre-norm layer (one whose order begins with `norm`) it is the value before the norm that
    precedes the block.

    The layer copies the blocks that it is given, so that several layers may be made of the same ones and share no
    weights. A copy has the initial values of its block. Where one block is copied for several places of the layer, the
    copies after the first draw their own initial values by `reset_parameters`, if the block has that method; values
    that the method does not touch, and those of blocks without it, are the same in all copies.

    Args:
        attn: the attention blocks in the order of use, or one block for all attentions.
        ffn: the feed-forward block, for every `ffn`.
        norm: the normalisation, for every `norm`; its initial values are never drawn again.
        operation_order: names out of "self_attn", "cross_attn", "norm", "ffn", in the order in which they run.

    Attributes:
        required_inputs: "self_attn" and "cross_attn" -> names of the further arguments that these blocks require.
        activation_checkpointing: set to True, training recomputes what is inside the layer in the backward pass
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
            attn = [attn] * num_attentions
        if len(attn) != num_attentions:
            raise ValueError(
                f"{len(attn)} attention blocks were given, but operation_order={self.operation_order} "
                f"has {num_attentions}"
            )
        self.attentions = nn.ModuleList(copies(attn))
        self.required_inputs: dict[str, tuple[str, ...]] = {"self_attn": (), "cross_attn": ()}
        kinds = [operation for operation in self.operation_order if operation.endswith("_attn")]
        for kind, attention in zip(kinds, self.attentions, strict=True):
            self.required_inputs[kind] += _required_inputs(cast(Any, type(attention)))
        self.activation_checkpointing = False
        self.ffns = nn.ModuleList(copies([ffn] * self.operation_order.count("ffn")))
        self.norms = nn.ModuleList(copy.deepcopy(norm) for _ in range(self.operation_order.count("norm")))

    def reset_parameters(self) -> None:
        """Draw the initial values of attentions and feed-forward blocks, of those that have `reset_parameters`."""
        for block in (*self.attentions, *self.ffns):
            draw_again(block)

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
            self_attn_inputs: further arguments for the self-attention blocks, e.g. an attention bias, or others than
                those above, e.g. positions of their own.
            cross_attn_inputs: the same for the cross-attention blocks, e.g. reference points.

        Returns:
            (B, Q, C).

        Raises:
            ValueError: when an attention needs further arguments and they are not given.
        """
        further = {"self_attn": self_attn_inputs or {}, "cross_attn": cross_attn_inputs or {}}
        if not torch.compiler.is_compiling():
            self._check_inputs(further)
        attentions, ffns, norms = iter(self.attentions), iter(self.ffns), iter(self.norms)
        identity = query
        for operation in self.operation_order:
            if operation == "norm":
                normalised = next(norms)(query)
                identity = query if self.pre_norm else normalised
                query = normalised
                continue
            if operation == "self_attn":
                inputs = {
                    "identity": identity,
                    "query_pos": query_pos,
                    "key_pos": query_pos,
                    "attn_mask": self_attn_mask,
                    "key_padding_mask": query_key_padding_mask,
                }
                query = next(attentions)(query, **inputs | further["self_attn"])
            elif operation == "cross_attn":
                inputs = {
                    "identity": identity,
                    "query_pos": query_pos,
                    "key_pos": key_pos,
                    "attn_mask": cross_attn_mask,
                    "key_padding_mask": key_padding_mask,
                }
                query = next(attentions)(query, key, value, **inputs | further["cross_attn"])
            else:
                query = next(ffns)(query, identity=identity)
            identity = query
        return query

    def _check_inputs(self, further: dict[str, dict[str, Any]]) -> None:
        operations = (operation for operation in self.operation_order if operation in further)
        for operation, attention in zip(operations, self.attentions, strict=True):
            missing = [name for name in _required_inputs(cast(Any, type(attention))) if name not in further[operation]]
            if missing:
                raise ValueError(
                    f"{operation} of operation_order={self.operation_order} is a {type(attention).__name__}, which "
                    f"needs {' and '.join(missing)}: give them in {operation}_inputs"
                )


class TransformerLayerSequence(nn.Module):
    """A stack of layers. It is abstract: subclasses implement `forward`.

    Args:
        transformer_layers: the layers, which are taken as they are, or one layer, of which `num_layers` copies are
            made. The first copy has the initial values of that layer. The others draw their own by `reset_parameters`,
            if the layer has that method, so that layers differ from each other; what the method does not touch (see
            `BaseTransformerLayer.reset_parameters`) is the same in all copies.
        num_layers: how many layers; may be left out when a list is given.

    Raises:
        ValueError: when a list has another length than `num_layers`, or one layer comes without `num_layers`.
    """

    def __init__(self, transformer_layers: nn.Module | Sequence[nn.Module], num_layers: int | None = None):
        super().__init__()
        if isinstance(transformer_layers, nn.Module) and not isinstance(transformer_layers, nn.ModuleList):
            if num_layers is None:
                raise ValueError("one layer was given: num_layers must say how many copies to make")
            transformer_layers = copies([transformer_layers] * num_layers)
        elif num_layers is not None and len(transformer_layers) != num_layers:
            raise ValueError(f"{len(transformer_layers)} layers were given, but num_layers={num_layers}")
        self.layers = nn.ModuleList(transformer_layers)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.layers)


@functools.cache
def _required_inputs(attention: Any) -> tuple[str, ...]:
    """What the `forward` of a class of attentions requires beyond what a layer gives to every attention."""
    _, *parameters = inspect.signature(attention.forward).parameters.values()
    return tuple(
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in ATTENTION_INPUTS
    )
