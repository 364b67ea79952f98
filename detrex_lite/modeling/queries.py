"""What a decoder decodes: blocks of queries, joined for the layers and told apart again in what comes out.

Matching queries are a block. So are denoising queries (DN-DETR, DINO), the groups of Group DETR and the one-to-many
branch of H-Deformable DETR, and any of them go together.

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
    """Queries that are treated alike, and how their predictions are matched and weighted.

    A compiled decoder takes blocks as they are: it depends on what it reads, which are tensors, and not on objects and
    matches, whose number differs from batch to batch.

    Attributes:
        suffix: of the names of the block's predictions and losses, see `name_of_layer`; "" for matching queries.
        content: (B, q, C).
        reference: (B, q, 2) points or (B, q, 4) cxcywh boxes in 0..1 of each image; None without references.
        position: (B, q, C), added to queries in attention; None where the decoder makes positions of references.
        sees: suffixes of the other blocks that these queries attend to in self-attention.
        mask: bool, (q, q) or (B, q, q), True = not attended within the block.
        num_groups: the block is this many groups of equal size, one after the other, which do not see each other and
            are matched each by itself.
        padding: (B, q) bool, True = a query that only fills up the batch: no other attends to it, and nothing is
            detected by it. None when there is none.
        targets, match, repeats, weight, query_weight: of the predictions, see `Predictions`.
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
        """q, the number of queries of an image."""
        return self.content.shape[1]


class Queries:
    """Blocks of queries, one after the other.

    Attributes:
        blocks: as given, without those that are None.
        content: (B, Q, C).
        reference: (B, Q, 2) or (B, Q, 4); None without references.
        position: (B, Q, C); None where the decoder makes positions of references.
        num_groups: self-attention is within each of this many consecutive groups of equal size. Such groups are folded
            into the batch instead of masked, so that eleven groups cost an eleventh of one block of their size.
        attn_mask: bool, (Q, Q) or (B, Q, Q), True = not attended in self-attention; None when nothing is masked. Of
            several groups it is that of each group, see `side_by_side`.

    Raises:
        ValueError: without blocks, when two have one suffix, when a block sees one that is not there, when only some
            have references or positions, or when a block is no multiple of its groups.
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
        """These queries so many times, as groups after each other, each of which sees itself alone.

        `content`, `reference` and `position` are (B, times * Q, ...), and `num_groups` is that many times as large.
        `attn_mask` is that of each group, and `blocks` are those of one time.
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
                raise ValueError(f"queries {block.suffix!r} are to see {unknown[0]!r}, but the blocks are {suffixes}")
            if block.num_groups > 1 and block.size % block.num_groups:
                raise ValueError(
                    f"{block.size} queries {block.suffix!r} cannot be divided into num_groups={block.num_groups} "
                    "groups of equal size"
                )

    def _foldable_groups(self) -> int:
        """How many groups of one size there are, when nothing else restricts who attends to whom; 1 otherwise."""
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
        # It attends to itself: attention to nothing would be NaN.
        others = ~torch.eye(self.content.shape[1], dtype=torch.bool, device=self.content.device)
        padding = torch.cat(parts, dim=1)[:, None] & others
        return padding if mask is None else padding | mask

    def _mask_of_blocks(self) -> Tensor | None:
        if len(self.blocks) == 1 and (self.blocks[0].mask is not None or self.blocks[0].num_groups == 1):
            return self.blocks[0].mask
        total, device = self.content.shape[1], self.content.device
        batched = [block.mask for block in self.blocks if block.mask is not None and block.mask.dim() == 3]
        shape = (len(self.content), total, total) if batched else (total, total)
        mask = torch.ones(shape, dtype=torch.bool, device=device)
        places, first = {}, 0
        for block in self.blocks:
            places[block.suffix] = slice(first, first + block.size)
            first += block.size
        for block in self.blocks:
            rows = places[block.suffix]
            mask[..., rows, rows] = _between_groups(block) if block.mask is None else block.mask
            for suffix in block.sees:
                mask[..., rows, places[suffix]] = False
        return mask

    def split(self, layers: Sequence[LayerOutput], *, aux_loss: bool = True) -> dict[str, Predictions]:
        """Tell the predictions of the blocks apart, and name them.

        Args:
            layers: one output for each decoder layer, and those with names, for the queries of all blocks.
            aux_loss: whether the layers before the last are returned.

        Returns:
            Name -> predictions, see `name_layers`.
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
    given = [value for value in values if value is not None]
    if not given:
        return None
    if len(given) < len(values):
        raise ValueError(f"only {len(given)} of {len(values)} blocks of queries have a {name}: all must, or none")
    return _joined(given)


def _between_groups(block: QueryBlock) -> Tensor | bool:
    """True between queries of different groups; False for a block that is one group."""
    if block.num_groups == 1:
        return False
    group = torch.arange(block.size, device=block.content.device) // (block.size // block.num_groups)
    return group != group[:, None]
