"""One-to-one matching of queries and objects at the least total cost (DETR, Carion et al., ECCV 2020, eq. 1)."""

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ...errors import NonFiniteError
from ..predictions import Predictions
from ..targets import Targets
from .costs import MatchingCost


class Match(NamedTuple):
    """Pairs of queries and objects, M in the whole batch.

    Attributes:
        image: (M,) the image's position in the batch.
        query: (M,) the query's index in 0..Q-1.
        target: (M,) the object's index in the packed `Targets`.
    """

    image: Tensor
    query: Tensor
    target: Tensor


class HungarianMatcher:
    """Finds the cheapest one-to-one matching for every image and every set of predictions.

    Costs are computed on the device, one block per image (never batch x all objects), brought to the CPU in one
    transfer for all sets together, and solved by SciPy.

    Args:
        costs: name -> cost; their sum is minimised. Each is already weighted.

    Raises:
        ValueError: when there are no costs.
    """

    def __init__(self, costs: Mapping[str, MatchingCost]):
        if not costs:
            raise ValueError("HungarianMatcher needs at least one cost")
        self.costs = dict(costs)
        self._warned = False

    @torch.no_grad()
    def __call__(self, predictions: Sequence[Predictions], targets: Targets) -> list[Match]:
        """Match each set of predictions with the targets.

        Args:
            predictions: sets of predictions for one batch, e.g. all decoder layers; Q may differ between sets.
            targets: the batch's objects. An image with more objects than queries leaves some unmatched (and warns).

        Returns:
            One Match per set, on the device of the predictions, sorted by image and query.

        Raises:
            NonFiniteError: when a cost is NaN or infinite, naming the set and the image.
        """
        device = predictions[0].logits.device
        if len(targets) == 0:
            empty = torch.zeros(0, dtype=torch.int64, device=device)
            return [Match(empty, empty, empty) for _ in predictions]
        self._warn_of_too_many(predictions, targets)
        labels, boxes = targets.padded()
        blocks = [sum(cost(one, labels, boxes) for cost in self.costs.values()) for one in predictions]
        flat = torch.cat([block.flatten() for block in blocks]).cpu().numpy()  # type: ignore[union-attr]
        offsets = np.cumsum([0, *(block.numel() for block in blocks)])  # type: ignore[union-attr]
        solved = [
            _solve(flat[begin:end].reshape(block.shape), targets.sizes, number)  # type: ignore[union-attr]
            for number, (block, begin, end) in enumerate(zip(blocks, offsets, offsets[1:], strict=False))
        ]
        # One transfer back, too.
        joined = torch.from_numpy(np.concatenate(solved, axis=1)).to(device, non_blocking=True)
        return [Match(*part) for part in joined.split([pairs.shape[1] for pairs in solved], dim=1)]

    def _warn_of_too_many(self, predictions: Sequence[Predictions], targets: Targets) -> None:
        queries = min(one.logits.shape[1] for one in predictions)
        if max(targets.sizes) > queries and not self._warned:
            self._warned = True
            warnings.warn(
                f"an image has {max(targets.sizes)} objects, but there are {queries} queries: some objects are left "
                "unmatched; raise model.num_queries (this is said once)"
            )


def _solve(cost: np.ndarray, sizes: list[int], number: int) -> np.ndarray:
    """cost: (B, Q, T_max). Returns (3, M) int64: image, query, target of each pair."""
    pairs, first = [], 0
    for image, (block, size) in enumerate(zip(cost, sizes, strict=True)):
        block = block[:, :size]
        if not np.isfinite(block).all():
            raise NonFiniteError(
                f"the matching cost of image {image} of the batch is not finite in prediction set {number}: "
                "the predicted logits or boxes are NaN or infinite"
            )
        query, target = linear_sum_assignment(block)
        pairs.append(np.stack([np.full_like(query, image), query, target + first]))
        first += size
    return np.concatenate(pairs, axis=1)
