"""Where denoising queries are: groups of blocks, and in a block a slot for each object of the image.

Every group holds `copies` blocks (DN-DETR: one; DINO: positives, then negatives). A block has as many slots as the
image with the most objects needs; in other images the last ones are padding.

Legend: B batch, T objects in the batch, S slots of a block, D denoising queries, Q matching queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..predictions import Match


def number_objects(sizes: Sequence[int], limit: int) -> tuple[Tensor, list[int]]:
    """Give each object its slot; of an image with more objects than `limit`, that many are drawn at random.

    Args:
        sizes: the number of objects of each image.
        limit: the most that an image may have.

    Returns:
        (3, T) int64 on the CPU: image, slot and index in the packed `Targets` of each object that is left; and how many
        each image has left.
    """
    columns, first = [], 0
    for image, size in enumerate(sizes):
        chosen = torch.arange(size) if size <= limit else torch.randperm(size)[:limit].sort().values
        columns.append(torch.stack([torch.full_like(chosen, image), torch.arange(len(chosen)), first + chosen]))
        first += size
    return torch.cat(columns, dim=1), [one.shape[1] for one in columns]


@dataclass(frozen=True)
class Layout:
    """The arrangement of a batch's denoising queries.

    Attributes:
        image: (T,) each object's position in the batch.
        slot: (T,) its slot in 0..S-1.
        batch: B.
        slots: S.
        groups: how many groups.
        copies: blocks of a group, of which the first is matched with the objects.
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
        """D, the number of denoising queries of an image."""
        return self.blocks * self.slots

    def place(self, values: Tensor, padding: float) -> Tensor:
        """Put what each object has in each block to its place.

        Args:
            values: (T, blocks, ...).
            padding: what padding gets.

        Returns:
            (B, D, ...).
        """
        placed = values.new_full((self.batch, self.slots, *values.shape[1:]), padding)
        placed[self.image, self.slot] = values
        return placed.transpose(1, 2).flatten(1, 2)

    def match(self) -> Match:
        """Which query answers for which object: those of each group's first block."""
        first_blocks = torch.arange(0, self.blocks, self.copies, device=self.image.device)
        objects = torch.arange(len(self.image), device=self.image.device)
        query = (first_blocks[:, None] * self.slots + self.slot).flatten()
        return Match(self.image.repeat(self.groups), query, objects.repeat(self.groups))

    def between_groups(self) -> Tensor:
        """(D, D) bool, True between queries of different groups."""
        group = torch.arange(len(self), device=self.image.device) // max(self.copies * self.slots, 1)
        return group != group[:, None]

    def padding(self) -> Tensor:
        """(B, D) bool, True = the query is of no object."""
        objects = torch.zeros(len(self.image), self.blocks, dtype=torch.bool, device=self.image.device)
        return self.place(objects, padding=True)
