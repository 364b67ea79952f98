"""The layout of denoising queries: groups of blocks, with one slot per object of the image in each block.

Every group has `copies` blocks (DN-DETR: one; DINO: positives, then negatives). A block has as many slots as the image
with the most objects needs; in other images the last slots are padding.

Legend: B batch, T objects in the batch, S slots of a block, D denoising queries, Q matching queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..predictions import Match


def number_objects(sizes: Sequence[int], limit: int) -> tuple[Tensor, list[int]]:
    """Assign a slot to each object; if an image has more objects than `limit`, that many are drawn at random.

    Args:
        sizes: the number of objects of each image.
        limit: the largest number of objects of an image.

    Returns:
        (3, T) int64 on the CPU: image, slot and index in the packed `Targets` of each remaining object; and the number
        of remaining objects of each image.
    """
    columns, first = [], 0
    for image, size in enumerate(sizes):
        chosen = torch.arange(size) if size <= limit else torch.randperm(size)[:limit].sort().values
        columns.append(torch.stack([torch.full_like(chosen, image), torch.arange(len(chosen)), first + chosen]))
        first += size
    return torch.cat(columns, dim=1), [column.shape[1] for column in columns]


@dataclass(frozen=True)
class Layout:
    """The layout of a batch's denoising queries.

    Attributes:
        image: (T,) the image of each object in the batch.
        slot: (T,) the slot of each object in 0..S-1.
        batch: B.
        slots: S.
        groups: number of groups.
        copies: number of blocks in a group, the first of which is matched with the objects.
    """

    image: Tensor
    slot: Tensor
    batch: int
    slots: int
    groups: int
    copies: int

    @property
    def blocks(self) -> int:
        return self.groups * self.copies

    def __len__(self) -> int:
        """Number of denoising queries of an image, D."""
        return self.blocks * self.slots

    def place(self, values: Tensor, padding: float) -> Tensor:
        """Scatter the values of objects in each block to their slots.

        Args:
            values: (T, blocks, ...).
            padding: the value of padding.

        Returns:
            (B, D, ...).
        """
        placed = values.new_full((self.batch, self.slots, *values.shape[1:]), padding)
        placed[self.image, self.slot] = values
        return placed.transpose(1, 2).flatten(1, 2)

    def match(self) -> Match:
        """Return the match of queries and objects: the queries of each group's first block."""
        first_blocks = torch.arange(0, self.blocks, self.copies, device=self.image.device)
        objects = torch.arange(len(self.image), device=self.image.device)
        query = (first_blocks[:, None] * self.slots + self.slot).flatten()
        return Match(self.image.repeat(self.groups), query, objects.repeat(self.groups))

    def between_groups(self) -> Tensor:
        """Return a mask (D, D), True between queries of different groups."""
        group = torch.arange(len(self), device=self.image.device) // max(self.copies * self.slots, 1)
        return group != group[:, None]

    def padding(self) -> Tensor:
        """Return a mask (B, D), True = a query without an object."""
        objects = torch.zeros(len(self.image), self.blocks, dtype=torch.bool, device=self.image.device)
        return self.place(objects, padding=True)
