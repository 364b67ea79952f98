"""Reduction of the transformer's tokens to the most informative ones and a few pooled ones.

In PnP-DETR (Wang et al., ICCV 2021), "poll" keeps tokens by a learned score, and "pool" aggregates the others.

Legend: B batch, N cells of the feature map, S kept tokens, P pooled tokens, C channels.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...structures import ImageBatch
from ..initialisation import xavier_uniform
from ..predictions import at_least_float32


class SampledTokens(NamedTuple):
    """The result of a sampler.

    Attributes:
        tokens: (B, S + P, C).
        pos: (B, S + P, C), positions of the tokens.
        padding: (B, S + P) bool, True = an empty slot; None when there is none.
        losses: maps names to weighted scalar losses.
    """

    tokens: Tensor
    pos: Tensor
    padding: Tensor | None
    losses: Mapping[str, Tensor]


class PollAndPoolSampler(nn.Module):
    """Keeps the cells with the highest scores, multiplied by their scores, and pools the others to a few tokens.

    The number of kept cells depends on the size of the image, not on that of the batch.

    Args:
        embed_dim: C.
        sample_ratio: fraction of an image's cells that is kept, rounded down.
        num_pooled: P.
        loss_weight: weight of the loss "sample_reg_loss", the mean score of kept cells, which makes scores sparse.

    Raises:
        ValueError: when `sample_ratio` is not between 0 and 1, or `num_pooled` is below 1.
    """

    def __init__(self, *, embed_dim: int, sample_ratio: float = 0.5, num_pooled: int = 30, loss_weight: float = 1e-4):
        super().__init__()
        if not 0 < sample_ratio < 1:
            raise ValueError(f"sample_ratio={sample_ratio} must be above 0 and below 1")
        if num_pooled < 1:
            raise ValueError(f"num_pooled={num_pooled} is below 1")
        self.embed_dim = embed_dim
        self.sample_ratio = sample_ratio
        self.num_pooled = num_pooled
        self.loss_weight = loss_weight
        self.score_pred_net = nn.Sequential(
            nn.Conv2d(embed_dim, embed_dim, kernel_size=1), nn.ReLU(), nn.Conv2d(embed_dim, 1, kernel_size=1)
        )
        self.k_proj = nn.Linear(embed_dim, num_pooled)
        self.v_proj = nn.Linear(embed_dim, embed_dim)
        xavier_uniform(self)

    def forward(self, feature: ImageBatch, pos: Tensor) -> SampledTokens:
        """Sample.

        Args:
            feature: (B, C, h, w), with its padding, which is neither kept nor pooled.
            pos: (B, C, h, w), or (1, C, h, w) if all images share it.
        """
        scores = self.score_pred_net(feature.tensor).flatten(1).sigmoid()  # (B, N)
        batch, number = scores.shape
        size = torch.full((batch, 1), number, device=scores.device)
        ranked = scores.detach()
        if feature.mask is not None:
            padding = feature.mask.flatten(1)
            size = (~padding).sum(1, keepdim=True)
            ranked = ranked.masked_fill(padding, -1.0)  # sorts padding to the end
        # Computed in float64, as Python's product, so that no image keeps more cells than there are slots.
        num_kept = (size.double() * self.sample_ratio).long()
        max_kept = int(number * self.sample_ratio)

        order = ranked.argsort(dim=1, descending=True)
        scores = scores.gather(1, order)
        tokens = F.layer_norm(_sorted(feature.tensor, order), (self.embed_dim,))
        pos = _sorted(pos.expand(batch, -1, -1, -1), order)
        rank = torch.arange(number, device=order.device)

        is_pooled = (rank >= num_kept) & (rank < size)  # (B, N)
        pool_weights = self.k_proj(tokens).transpose(1, 2).masked_fill(~is_pooled[:, None], float("-inf")).softmax(-1)
        pooled, pooled_pos = pool_weights @ self.v_proj(tokens), pool_weights @ pos  # (B, P, C)

        empty = None
        if feature.mask is not None:
            empty = F.pad(rank[:max_kept] >= num_kept, (0, self.num_pooled), value=False)
        counted = rank[:max_kept] < num_kept.max()  # as published, empty slots are counted up to the largest image
        mean = (at_least_float32(scores[:, :max_kept]) * counted).sum() / (batch * counted.sum()).clamp(min=1)
        return SampledTokens(
            torch.cat([tokens[:, :max_kept] * scores[:, :max_kept, None], pooled.to(tokens.dtype)], dim=1),
            torch.cat([pos[:, :max_kept], pooled_pos.to(pos.dtype)], dim=1),
            empty,
            {"sample_reg_loss": self.loss_weight * mean},
        )


def _sorted(maps: Tensor, order: Tensor) -> Tensor:
    """Flatten maps (B, C, h, w) and gather the cells in an order (B, N): (B, N, C)."""
    return maps.flatten(2).transpose(1, 2).gather(1, order[..., None].expand(-1, -1, maps.shape[1]))
