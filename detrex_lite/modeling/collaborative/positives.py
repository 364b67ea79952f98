"""Customised positive queries: decoder queries made from the positives of a collaborative head (Co-DETR, section 3.3).

Legend: B batch, Q queries of a block, C channels, P positives of the batch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import get_sine_pos_embed
from ..initialisation import xavier_uniform
from ..predictions import Match
from ..queries import QueryBlock
from ..targets import Targets
from .assignment import BACKGROUND, draw
from .pyramid import Candidates, Pyramid, first_objects


class PositiveQueries(nn.Module):
    """Makes queries of the boxes that a head has assigned to objects, and keeps the head's match.

    All images have as many queries as the image with the most positives. Other images are filled up with randomly drawn
    background boxes.

    Args:
        embed_dim: C.
        with_positions: also make positions of boxes, for decoders that do not compute them (Deformable DETR's).
        with_features: add the head's features of a box to the content, as in Co-Deformable-DETR.
        max_queries: the largest number of positives of an image; above it they are drawn at random.
        min_queries: the smallest number of queries, limited by `max_queries`.
        fill_with_background: False fills up with padding, which is masked, instead of background.

    Raises:
        ValueError: when `max_queries` is below 1.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        with_positions: bool = False,
        with_features: bool = False,
        max_queries: int = 300,
        min_queries: int = 9,
        fill_with_background: bool = True,
    ):
        super().__init__()
        if max_queries < 1:
            raise ValueError(f"max_queries={max_queries} is below 1; set collaboration.queries=null for no queries")
        self.embed_dim = embed_dim
        self.with_positions = with_positions
        self.with_features = with_features
        self.max_queries = max_queries
        self.min_queries = min(min_queries, max_queries)
        self.fill_with_background = fill_with_background
        width = (1 + with_positions) * embed_dim
        self.pos_trans = nn.Linear(2 * embed_dim, width)
        self.pos_trans_norm = nn.LayerNorm(width)
        if with_features:
            self.feature_trans = nn.Linear(embed_dim, embed_dim)
            self.feature_trans_norm = nn.LayerNorm(embed_dim)
        xavier_uniform(self)
        if with_features and with_positions:
            self.head_embed = nn.Parameter(torch.empty(embed_dim))
            nn.init.normal_(self.head_embed)

    def forward(
        self, suffix: str, candidates: Sequence[Candidates], pyramid: Pyramid, targets: Targets, weight: float = 1.0
    ) -> QueryBlock:
        """Make the block of queries of a head.

        Args:
            suffix: of the block, see `QueryBlock`.
            candidates: the candidates of each image.
            pyramid: the maps that the head has read.
            targets: the objects of the batch.
            weight: weight of all losses of the block.
        """
        chosen, sizes = self.choose(candidates)
        number = max(self.min_queries, *map(len, chosen))
        of_images = [
            pyramid.normalised(candidate.boxes[index], image)
            for image, (candidate, index) in enumerate(zip(candidates, chosen, strict=True))
        ]
        boxes = _pad_to(of_images, number, 0.5)
        features = [candidate.features[index] for candidate, index in zip(candidates, chosen, strict=True)]
        content, position = self.embed(boxes, _pad_to(features, number, 0.0))
        device, numbers = boxes.device, torch.tensor(sizes)
        image = torch.arange(len(sizes)).repeat_interleave(numbers).to(device, non_blocking=True)
        query = torch.cat([torch.arange(size) for size in sizes]).to(device, non_blocking=True)
        owner = [
            candidate.assigned[index[:size]] for candidate, index, size in zip(candidates, chosen, sizes, strict=True)
        ]
        positives = targets.selected(torch.cat(owner) + first_objects(targets, device)[image], sizes)
        match = Match(image, query, torch.arange(len(query), device=device), sizes=sizes)
        return QueryBlock(
            suffix,
            content,
            boxes,
            position,
            padding=_padding([len(index) for index in chosen], number, device),
            targets=positives,
            match=match,
            weight=weight,
        )

    def choose(self, candidates: Sequence[Candidates]) -> tuple[list[Tensor], list[int]]:
        """Choose the candidates that become queries.

        Returns:
            The indices of candidates of each image, positives first, and the number of positives of each image. Images
            without enough background have fewer indices.
        """
        positives = [draw((image.assigned >= 0).nonzero()[:, 0], self.max_queries) for image in candidates]
        sizes = [len(indices) for indices in positives]
        if not self.fill_with_background:
            return positives, sizes
        number = max(self.min_queries, *sizes)
        background = [(image.assigned == BACKGROUND).nonzero()[:, 0] for image in candidates]
        drawn = [draw(indices, number - size) for indices, size in zip(background, sizes, strict=True)]
        return [torch.cat(parts) for parts in zip(positives, drawn, strict=True)], sizes

    def embed(self, boxes: Tensor, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return contents of queries, and their positions if `with_positions`: (B, Q, C) each.

        Args:
            boxes: (B, Q, 4) cxcywh in 0..1; they may reach beyond the image.
            features: (B, Q, C).
        """
        embedding = get_sine_pos_embed(boxes.clamp(min=0, max=1), self.embed_dim // 2, exchange_xy=False)
        content = self.pos_trans_norm(self.pos_trans(embedding.to(self.pos_trans.weight.dtype)))
        position = None
        if self.with_positions:
            position, content = content.chunk(2, dim=-1)
        if self.with_features:
            content = content + self.feature_trans_norm(self.feature_trans(features.to(content.dtype)))
            position = None if position is None else position + self.head_embed
        return content, position


def _pad_to(parts: Sequence[Tensor], number: int, value: float) -> Tensor:
    """Stack (n, C) of each image to (B, number, C), padded with a value."""
    return torch.stack([F.pad(part, (0, 0, 0, number - len(part)), value=value) for part in parts])


def _padding(sizes: Sequence[int], number: int, device: torch.device) -> Tensor | None:
    """Return (B, number) bool, True beyond the size of each image; None when no image is padded."""
    if min(sizes) == number:
        return None
    return (torch.arange(number) >= torch.tensor(sizes)[:, None]).to(device, non_blocking=True)
