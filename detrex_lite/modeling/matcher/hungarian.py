"""One-to-one matching of queries and objects at the least total cost (DETR, Carion et al., ECCV 2020, eq. 1)."""

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from ...errors import NonFiniteError
from ...phases import phase
from ..predictions import Match, Predictions
from ..targets import Targets
from .costs import MatchingCost


class HungarianMatcher:
    """Finds the cheapest one-to-one matching for every image and every set of predictions.

    Costs are computed on the device for all sets at once, one block per image (never batch x all objects), brought to
    the CPU in one transfer, and solved by SciPy.

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
        costs = self.cost_matrices(list(predictions.values()), targets)
        solved = []
        for (number, one), cost in zip(predictions.items(), costs, strict=True):
            sizes = (targets if one.targets is None else one.targets).sizes
            self._warn_of_too_many(max(sizes, default=0), cost.shape[1])
            solved.append(_solve(cost, sizes, number))
        # One transfer back, too.
        joined = torch.from_numpy(np.concatenate(solved, axis=1)).to(targets.boxes.device, non_blocking=True)
        return [Match(*part) for part in joined.split([pairs.shape[1] for pairs in solved], dim=1)]

    @torch.no_grad()
    def cost_matrices(self, predictions: Sequence[Predictions], targets: Targets) -> list[np.ndarray]:
        """What is minimised: the sum of all costs for each set, (B, Q, T), brought to the CPU in one transfer.

        Args:
            predictions: sets of predictions, whether they come with a match or not.
            targets: see `__call__`. T is the largest number of objects of an image; what is beyond an image's own
                number means nothing.
        """
        if not predictions:
            return []
        own = [targets if one.targets is None else one.targets for one in predictions]
        groups: dict[tuple[int, int], list[int]] = {}
        for position, (one, its) in enumerate(zip(predictions, own, strict=True)):
            groups.setdefault((one.logits.shape[-1], id(its)), []).append(position)
        blocks = []
        for group in groups.values():
            # Sets of a group are computed as if they were one: on a GPU that saves the launch of most kernels.
            logits = torch.cat([predictions[position].logits for position in group], dim=1)
            joined = Predictions(logits, torch.cat([predictions[position].boxes for position in group], dim=1))
            labels, boxes = own[group[0]].padded()
            blocks.append(torch.stack([cost(joined, labels, boxes) for cost in self.costs.values()]).sum(0))
        flat = torch.cat([block.flatten() for block in blocks]).cpu().numpy()
        parts = np.split(flat, np.cumsum([block.numel() for block in blocks])[:-1])
        matrices: dict[int, np.ndarray] = {}
        for group, block, part in zip(groups.values(), blocks, parts, strict=True):
            ends = np.cumsum([predictions[position].logits.shape[1] for position in group])
            matrices.update(zip(group, np.split(part.reshape(block.shape), ends[:-1], axis=1), strict=True))
        return [matrices[position] for position in range(len(predictions))]

    def _warn_of_too_many(self, objects: int, queries: int) -> None:
        if objects > queries and not self._warned:
            self._warned = True
            warnings.warn(
                f"an image has {objects} objects, but there are {queries} queries: some objects are left "
                "unmatched; raise model.num_queries (this is said once)"
            )


def _solve(cost: np.ndarray, sizes: list[int], number: int) -> np.ndarray:
    """cost: (B, Q, T_max). Returns (3, M) int64: image, query, target of each pair."""
    if not np.isfinite(cost).all():
        image = int(np.argmin(np.isfinite(cost).all(axis=(1, 2))))
        raise NonFiniteError(
            f"the matching cost of image {image} of the batch is not finite in prediction set {number}: "
            "the predicted logits or boxes are NaN or infinite"
        )
    solved = [linear_sum_assignment(block[:, :size]) for block, size in zip(cost, sizes, strict=True)]
    found = [len(query) for query, _ in solved]
    first = np.repeat(np.cumsum([0, *sizes[:-1]]), found)
    query, target = (np.concatenate(indices) for indices in zip(*solved, strict=True))
    return np.stack([np.repeat(np.arange(len(sizes)), found), query, target + first])
