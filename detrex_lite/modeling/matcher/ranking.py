"""Weights of several queries that are matched with one object (Align-DETR, Cai et al., BMVC 2024).

Legend: M matched pairs, T objects of the batch.
"""

import torch
from torch import Tensor

from ..predictions import Match, Predictions
from ..quality import alignment_quality, overlap_quality
from ..targets import Targets


class RankWeights:
    """Gives the r-th best query of an object, counted from 0, the weight exp(-r / tau).

    Queries are ranked by their alignment p^alpha * u^(1 - alpha), where p is the probability of the object's class and
    u the IoU of the boxes; in a tie, the first one in the match is better. For the use of weights see `Match.weight`.

    Args:
        tau: how slowly weights decrease; above 0.
        alpha: exponent of the score, in 0..1; usually that of `IoUAwareBCELoss`.
        eps: added to the union in the denominator of the overlap.

    Raises:
        ValueError: when `tau` is not above 0.
    """

    def __init__(self, tau: float, alpha: float = 0.25, eps: float = 0.0):
        if tau <= 0:
            raise ValueError(f"RankWeights needs a tau above 0, got {tau}")
        self.tau = tau
        self.alpha = alpha
        self.eps = eps

    def __call__(self, match: Match, predicted: Predictions, targets: Targets) -> Tensor:
        """Rank the queries of each object, within each group of queries.

        Args:
            match: the pairs, in any order.
            predicted: the set of predictions that was matched.
            targets: the objects that it was matched with.

        Returns:
            The weights, (M,), in the order of the pairs.
        """
        logits = predicted.logits[match.image, match.query, targets.labels[match.target]]
        overlaps = overlap_quality(predicted.boxes[match.image, match.query], targets.boxes[match.target], self.eps)
        quality = alignment_quality(logits.sigmoid(), overlaps, self.alpha)
        group = match.query // max(predicted.logits.shape[1] // predicted.num_groups, 1)
        owner = group * len(targets) + match.target
        # The sorts are stable, so that pairs are ordered by object, then by quality, then by their original order.
        order = quality.argsort(descending=True, stable=True)
        order = order[owner[order].argsort(stable=True)]
        owner = owner[order]
        rank = torch.arange(len(owner), device=owner.device) - torch.searchsorted(owner, owner)
        weight = torch.empty_like(quality)
        weight[order] = torch.exp(-rank.to(quality.dtype) / self.tau)
        return weight
