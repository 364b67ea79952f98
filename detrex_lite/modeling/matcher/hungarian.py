"""One-to-one matching of queries and objects at the least total cost (DETR, Carion et al., ECCV 2020, eq. 1)."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ...errors import NonFiniteError
from ...phases import phase
from ..predictions import Match, Predictions
from ..targets import Targets
from .costs import MatchingCost


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
            predictions: sets of predictions for one batch, e.g. all decoder layers; Q may differ between sets. Those
                that come with a match keep it, and cost nothing.
            targets: the batch's objects, for sets without targets of their own. An image with more objects than
                queries leaves some unmatched (and warns).

        Returns:
            One Match per set, on the device of the predictions; what was found is sorted by image and query.

        Raises:
            NonFiniteError: when a cost is NaN or infinite, naming the set and the image.
        """
        unmatched = {number: one for number, one in enumerate(predictions) if one.match is None}
        with phase("matching"):
            found = dict(zip(unmatched, self._find(unmatched, targets), strict=True)) if unmatched else {}
        return [found[number] if one.match is None else one.match for number, one in enumerate(predictions)]

    def _find(self, predictions: Mapping[int, Predictions], targets: Targets) -> list[Match]:
        """Match sets, which errors name by their numbers."""
        all_targets = [targets if one.targets is None else one.targets for one in predictions.values()]
        padded = {id(one): one.padded() for one in all_targets}  # most sets share theirs
        blocks = [self._cost(one, *padded[id(its)]) for one, its in zip(predictions.values(), all_targets, strict=True)]
        device = blocks[0].device
        flat = torch.cat([block.flatten() for block in blocks]).cpu().numpy()
        offsets = np.cumsum([0, *(block.numel() for block in blocks)])
        solved = []
        for number, block, its, first in zip(predictions, blocks, all_targets, offsets, strict=False):
            self._warn_of_too_many(max(its.sizes, default=0), block.shape[1])
            cost = flat[first : first + block.numel()].reshape(block.shape)
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
