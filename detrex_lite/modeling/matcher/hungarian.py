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
            targets: the batch's objects, for sets without targets of their own. An image with more objects than
                queries leaves some unmatched (and warns).

        Returns:
            One Match per set, on the device of the predictions, sorted by image and query.

        Raises:
            NonFiniteError: when a cost is NaN or infinite, naming the set and the image.
        """
        device = predictions[0].logits.device
        all_targets = [targets if one.targets is None else one.targets for one in predictions]
        padded = {id(one): one.padded() for one in all_targets}  # most sets share theirs
        blocks = [self._cost(one, *padded[id(its)]) for one, its in zip(predictions, all_targets, strict=True)]
        flat = torch.cat([block.flatten() for block in blocks]).cpu().numpy()
        offsets = np.cumsum([0, *(block.numel() for block in blocks)])
        solved = []
        for number, (block, its) in enumerate(zip(blocks, all_targets, strict=True)):
            self._warn_of_too_many(max(its.sizes, default=0), block.shape[1])
            cost = flat[offsets[number] : offsets[number + 1]].reshape(block.shape)
            solved.append(_solve(cost, its.sizes, number))
        # One transfer back, too.
        joined = torch.from_numpy(np.concatenate(solved, axis=1)).to(device, non_blocking=True)
        return [Match(*part) for part in joined.split([pairs.shape[1] for pairs in solved], dim=1)]

    def _cost(self, predictions: Predictions, labels: Tensor, boxes: Tensor) -> Tensor:
        """(B, Q, T), the weighted sum of all costs."""
        return torch.stack([cost(predictions, labels, boxes) for cost in self.costs.values()]).sum(0)

    def _warn_of_too_many(self, objects: int, queries: int) -> None:
        if objects > queries and not self._warned:
            self._warned = True
            warnings.warn(
                f"an image has {objects} objects, but there are {queries} queries: some objects are left "
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
