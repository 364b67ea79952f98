"""Blocks of queries, which are concatenated for the decoder and split again in its outputs.

Matching queries are a block. Denoising queries (DN-DETR, DINO), the groups of Group DETR and the one-to-many branch of
H-Deformable DETR are blocks as well, and can be combined freely.

Legend: B batch, Q queries of all blocks, C channels.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .predictions import LayerOutput, Match, Predictions, name_layers
from .targets import Targets


@dataclass(eq=False)
class QueryBlock:
    """Queries with the same rules for matching and weights.

    A compiled decoder can take blocks: its graph depends only on the tensors that it reads, not on objects and matches,
    whose number differs from batch to batch.

    Attributes:
        suffix: suffix of the names of the block's predictions and losses, see `name_of_layer`; "" for matching queries.
        content: (B, q, C).
        reference: (B, q, 2) points or (B, q, 4) cxcywh boxes in 0..1 of each image; None without references.
        position: (B, q, C), added to queries in attention; None if the decoder computes positions from references.
        sees: suffixes of the other blocks that these queries attend to in self-attention.
        mask: bool, (q, q) or (B, q, q), True = not attended within the block.
        num_groups: number of consecutive groups of equal size, which do not attend to each other and are matched
            separately.
        padding: (B, q) bool, True = a query that only pads the batch: other queries do not attend to it, and it gives
            no detection. None without padding.
        targets, match, repeats, weight, query_weight: fields of the predictions, see `Predictions`.
    """

    suffix: str
    content: Tensor
    reference: Tensor | None
    position: Tensor | None = None
    sees: tuple[str, ...] = ()
    mask: Tensor | None = None
    num_groups: int = 1
    padding: Tensor | None = None
    targets: Targets | Callable[[Targets], Targets] | None = None
    match: Match | None = None
    repeats: int = 1
    weight: float = 1.0
    query_weight: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of queries of an image, q."""
        return self.content.shape[1]


class Queries:
    """Concatenated blocks of queries.

    Attributes:
        blocks: the given blocks, without those that are None.
        content: (B, Q, C).
        reference: (B, Q, 2) or (B, Q, 4); None without references.
        position: (B, Q, C); None if the decoder computes positions from references.
        num_groups: number of consecutive groups of equal size that self-attention is restricted to. Such groups are
            folded into the batch instead of masked, so that eleven groups cost an eleventh of one block of their size.
        attn_mask: bool, (Q, Q) or (B, Q, Q), True = not attended in self-attention; None when nothing is masked. With
            several groups it is the mask of each group, see `side_by_side`.

    Raises:
        ValueError: without blocks, when two blocks have the same suffix, when a block sees one that does not exist,
            when only some blocks have references or positions, or when the size of a block is not a multiple of its
            groups.
    """

    def __init__(self, blocks: Iterable[QueryBlock | None]):
        self.blocks = [block for block in blocks if block is not None]
        self._check()
        self.content = _joined([block.content for block in self.blocks])
        self.reference = _joined_or_none("reference", [block.reference for block in self.blocks])
        self.position = _joined_or_none("position", [block.position for block in self.blocks])
        self.num_groups = self._foldable_groups()
        self.attn_mask = self._mask() if self.num_groups == 1 else None

    def side_by_side(self, times: int) -> "Queries":
        """Repeat these queries as consecutive groups that attend only to themselves.

        `content`, `reference` and `position` are (B, times * Q, ...), and `num_groups` is multiplied by `times`.
        `attn_mask` is the mask of each group, and `blocks` are not repeated.
        """
        if times == 1:
            return self
        repeated = copy.copy(self)
        repeated.content = self.content.repeat(1, times, 1)
        repeated.reference = None if self.reference is None else self.reference.repeat(1, times, 1)
        repeated.position = None if self.position is None else self.position.repeat(1, times, 1)
        repeated.num_groups = self.num_groups * times
        if self.attn_mask is not None and self.attn_mask.dim() == 3:
            repeated.attn_mask = self.attn_mask.repeat_interleave(times, dim=0)
        return repeated

    def _check(self) -> None:
        suffixes = [block.suffix for block in self.blocks]
        if not suffixes:
            raise ValueError("a decoder needs at least one block of queries")
        if len(set(suffixes)) < len(suffixes):
            raise ValueError(f"two blocks of queries have the same suffix: {suffixes}")
        for block in self.blocks:
            unknown = [suffix for suffix in block.sees if suffix not in suffixes]
            if unknown:
                raise ValueError(f"queries {block.suffix!r} see {unknown[0]!r}, but the blocks are {suffixes}")
            if block.num_groups > 1 and block.size % block.num_groups:
                raise ValueError(
                    f"{block.size} queries {block.suffix!r} cannot be divided into num_groups={block.num_groups} "
                    "groups of equal size"
                )

    def _foldable_groups(self) -> int:
        """Return the number of groups of equal size if no other mask is needed; otherwise 1."""
        if any(block.padding is not None for block in self.blocks):
            return 1
        if len(self.blocks) == 1 and self.blocks[0].mask is None:
            return self.blocks[0].num_groups
        if any(block.sees or block.mask is not None for block in self.blocks):
            return 1
        sizes = {block.size // block.num_groups for block in self.blocks}
        return sum(block.num_groups for block in self.blocks) if len(sizes) == 1 else 1

    def _mask(self) -> Tensor | None:
        mask = self._mask_of_blocks()
        if all(block.padding is None for block in self.blocks):
            return mask
        none = self.content.new_zeros(len(self.content), 1, dtype=torch.bool)
        parts = [none.expand(-1, block.size) if block.padding is None else block.padding for block in self.blocks]
        # Padding attends to itself, because attention to nothing would be NaN.
        not_self = ~torch.eye(self.content.shape[1], dtype=torch.bool, device=self.content.device)
        padding = torch.cat(parts, dim=1)[:, None] & not_self
        return padding if mask is None else padding | mask

    def _mask_of_blocks(self) -> Tensor | None:
        if len(self.blocks) == 1 and (self.blocks[0].mask is not None or self.blocks[0].num_groups == 1):
            return self.blocks[0].mask
        total, device = self.content.shape[1], self.content.device
        batched = [block.mask for block in self.blocks if block.mask is not None and block.mask.dim() == 3]
        shape = (len(self.content), total, total) if batched else (total, total)
        mask = torch.ones(shape, dtype=torch.bool, device=device)
        slices, first = {}, 0
        for block in self.blocks:
            slices[block.suffix] = slice(first, first + block.size)
            first += block.size
        for block in self.blocks:
            rows = slices[block.suffix]
            mask[..., rows, rows] = _between_groups(block) if block.mask is None else block.mask
            for suffix in block.sees:
                mask[..., rows, slices[suffix]] = False
        return mask

    def split(self, layers: Sequence[LayerOutput], *, aux_loss: bool = True) -> dict[str, Predictions]:
        """Split the predictions into those of the blocks, and name them.

        Args:
            layers: one output for each decoder layer, and outputs with a name, for the queries of all blocks.
            aux_loss: whether to include the layers before the last.

        Returns:
            Maps names to predictions, see `name_layers`.
        """
        sizes = [block.size for block in self.blocks]
        parts = [_split(layer, sizes) for layer in layers]
        named: dict[str, Predictions] = {}
        for block, outputs in zip(self.blocks, zip(*parts, strict=True), strict=True):
            named |= name_layers(
                outputs,
                suffix=block.suffix,
                aux_loss=aux_loss,
                reference=block.reference,
                targets=block.targets,
                match=block.match,
                num_groups=block.num_groups if block.match is None else 1,
                repeats=block.repeats,
                weight=block.weight,
                query_weight=block.query_weight,
                padding=block.padding,
            )
        return named


def _split(layer: LayerOutput, sizes: list[int]) -> list[LayerOutput]:
    if len(sizes) == 1:
        return [layer]
    extra = {name: value.split(sizes, dim=1) for name, value in layer.extra.items()}
    left_out = [None] * len(sizes) if layer.left_out is None else layer.left_out.split(sizes, dim=1)
    parts = zip(layer.logits.split(sizes, dim=1), layer.boxes.split(sizes, dim=1), left_out, strict=True)
    return [
        layer._replace(
            logits=logits,
            boxes=boxes,
            extra={name: values[position] for name, values in extra.items()},
            left_out=hidden,
        )
        for position, (logits, boxes, hidden) in enumerate(parts)
    ]


def _joined(values: Sequence[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.cat(list(values), dim=1)


def _joined_or_none(name: str, values: Sequence[Tensor | None]) -> Tensor | None:
    tensors = [value for value in values if value is not None]
    if not tensors:
        return None
    if len(tensors) < len(values):
        raise ValueError(f"{len(tensors)} of {len(values)} blocks of queries have a {name}: give it to all or none")
    return _joined(tensors)


def _between_groups(block: QueryBlock) -> Tensor | bool:
    """Return True between queries of different groups; False for a block without groups."""
    if block.num_groups == 1:
        return False
    group = torch.arange(block.size, device=block.content.device) // (block.size // block.num_groups)
    return group != group[:, None]
