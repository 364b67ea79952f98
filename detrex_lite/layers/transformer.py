"""Transformer layers as a list of operations, and stacks of them.

The `operation_order` of a layer fully describes its architecture. DETR's post-norm encoder layer is
("self_attn", "norm", "ffn", "norm"), and its pre-norm decoder layer is ("norm", "self_attn", "norm", "cross_attn",
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
"""Names of the arguments that a layer passes to every attention."""


class BaseTransformerLayer(nn.Module):
    """A transformer layer with any order of the operations `self_attn`, `cross_attn`, `norm` and `ffn`.

    Every attention and feed-forward block adds its identity connection itself. In a post-norm layer that is the
    block's input; in a pre-norm layer (one whose order begins with `norm`) it is the value before the norm that
    precedes the block.

    The layer copies its blocks, so that several layers may be built from the same blocks without sharing weights. A
    copy has the initial values of the block. Where one block is copied for several operations of the layer, the copies
    after the first draw new initial values by `reset_parameters`, if the block has that method; values that the method
    does not touch, and those of blocks without it, are the same in all copies.

    Args:
        attn: the attention blocks in the order of use, or one block for all attentions.
        ffn: the feed-forward block, for every `ffn`.
        norm: the normalisation, for every `norm`; copies keep its initial values.
        operation_order: the operations ("self_attn", "cross_attn", "norm", "ffn") in the order in which they run.

    Attributes:
        required_inputs: maps "self_attn" and "cross_attn" to the names of further arguments that these blocks require.
        activation_checkpointing: when True, training recomputes the activations of the layer in the backward pass
            instead of storing them (Chen et al., 2016).

    Raises:
        ValueError: for an empty order, an unknown operation, or a list of attentions whose length is not the number of
            attentions in the order.
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
            raise ValueError(f"operation_order is empty; give a sequence of {', '.join(OPERATIONS)}")
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
        """Draw new initial values for the attentions and feed-forward blocks that have `reset_parameters`."""
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
            query_pos: added to queries and to the keys of self-attention; broadcastable to (B, Q, C).
            key_pos: added to the keys of cross-attention; broadcastable to (B, N, C).
            self_attn_mask: bool mask of self-attention, True = not attended; see MultiheadAttention.
            cross_attn_mask: bool mask of cross-attention, True = not attended.
            query_key_padding_mask: (B, Q) bool, True = padding, for self-attention.
            key_padding_mask: (B, N) bool, True = padding, for cross-attention.
            self_attn_inputs: further arguments of the self-attention blocks, such as an attention bias. They may also
                override the arguments above, for example the positions.
            cross_attn_inputs: the same for the cross-attention blocks, for example reference points.

        Returns:
            (B, Q, C).

        Raises:
            ValueError: when an attention requires further arguments that are not given.
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
                    f"needs {' and '.join(missing)}: pass them in {operation}_inputs"
                )


class TransformerLayerSequence(nn.Module):
    """Abstract stack of layers; subclasses implement `forward`.

    Args:
        transformer_layers: a list of layers, which is used without copying, or one layer, which is copied `num_layers`
            times. The first copy has the initial values of that layer. The others draw new ones by `reset_parameters`,
            if the layer has that method; values that the method does not touch (see
            `BaseTransformerLayer.reset_parameters`) are the same in all copies.
        num_layers: number of layers; optional with a list.

    Raises:
        ValueError: when the length of the list is not `num_layers`, or one layer is given without `num_layers`.
    """

    def __init__(self, transformer_layers: nn.Module | Sequence[nn.Module], num_layers: int | None = None):
        super().__init__()
        if isinstance(transformer_layers, nn.Module) and not isinstance(transformer_layers, nn.ModuleList):
            if num_layers is None:
                raise ValueError("one layer was given, so num_layers must be given too")
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
    """List the arguments that the `forward` of an attention class requires beyond `ATTENTION_INPUTS`."""
    _, *parameters = inspect.signature(attention.forward).parameters.values()
    return tuple(
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in ATTENTION_INPUTS
    )
