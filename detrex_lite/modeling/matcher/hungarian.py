"""Matching of queries and objects with the least total cost (DETR, Carion et al., ECCV 2020, eq. 1)."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ...errors import NonFiniteError, require_callables
from ...phases import phase
from ..predictions import FINAL, LayerOutput, Match, Predictions, with_targets
from ..targets import PaddedTargets, Targets
from .costs import MatchingCost
from .ranking import RankWeights

NEVER = 1e6  # cost of a query that must not be matched: finite, and far above all other costs


class Matcher(Protocol):
    """The interface of a matcher: one-to-one, one-to-many, or by overlap."""

    def __call__(self, predictions: Mapping[str, Predictions], targets: Targets) -> dict[str, Match]:
        """Match queries with objects.

        Args:
            predictions: maps names to sets, all for one batch.
            targets: the objects of the batch, for sets that do not have their own targets.

        Returns:
            Maps names to matches, on the device of the predictions.
        """
        ...


class HungarianMatcher:
    """Finds the cheapest matching for each image and set of predictions, one-to-one or with several candidates.

    A set with several groups of queries (`Predictions.num_groups`) is matched group by group. Costs are computed on the
    device for all sets at once, one block per image (not batch x all objects), transferred to the CPU at once, and
    solved by SciPy. They are computed in float32 at least, even under autocast.

    Queries that are padding (`Predictions.padding`) are not matched.

    With candidates, an object is matched with several queries, but a query with only one object. In an image with many
    objects there are fewer candidates, so that at most half of the queries are matched, but at least one for each
    object if possible. Losses are divided by the number of objects regardless of the number of candidates.

    Args:
        costs: maps names to weighted costs, whose sum is minimised.
        candidates: number of queries that each object is matched with (Align-DETR, Cai et al., BMVC 2024, "mixed
            matching").
        final_candidates: the same for the set of predictions of the detections; None for `candidates`.
        ranking: weights the candidates of each object; None for equal weights.

    Raises:
        ValueError: without costs, for a cost that is not callable, or when a number of candidates is below 1.
    """

    def __init__(
        self,
        costs: Mapping[str, MatchingCost],
        *,
        candidates: int = 1,
        final_candidates: int | None = None,
        ranking: RankWeights | None = None,
    ):
        if not costs:
            raise ValueError("HungarianMatcher needs at least one cost")
        require_callables("cost", costs)
        self.costs = dict(costs)
        self.candidates = candidates
        self.final_candidates = candidates if final_candidates is None else final_candidates
        if min(self.candidates, self.final_candidates) < 1:
            raise ValueError(
                f"HungarianMatcher needs at least one candidate for an object, got candidates={candidates}, "
                f"final_candidates={final_candidates}"
            )
        self.ranking = ranking
        self._warned = False

    @torch.no_grad()
    def __call__(self, predictions: Mapping[str, Predictions], targets: Targets) -> dict[str, Match]:
        """See `Matcher`. Each match is sorted by image and query.

        An image with more objects than queries leaves some objects unmatched (and warns once).

        Raises:
            ValueError: when the shape of a cost is not (B, Q, T), or when the size of a set is not a multiple of its
                number of groups.
            NonFiniteError: when a cost is NaN or infinite, naming the set and the image.
        """
        if not predictions:
            return {}
        with phase("matching"):
            predictions = with_targets(predictions, targets)
            costs = self.cost_matrices(predictions, targets)
            solved = []
            for name, predicted in predictions.items():
                sizes, groups = _targets(predicted).sizes, predicted.num_groups
                if costs[name].shape[1] % groups:
                    raise ValueError(
                        f"{costs[name].shape[1]} predictions {name!r} cannot be divided into num_groups={groups} "
                        "groups of equal size"
                    )
                self._warn_about_unmatched(name, max(sizes, default=0), costs[name].shape[1] // groups)
                candidates = self.final_candidates if name == FINAL else self.candidates
                solved.append(_solve(costs[name], sizes, groups, candidates, name))
            # All matches are transferred back at once.
            device = next(iter(predictions.values())).logits.device
            joined = torch.from_numpy(np.concatenate(solved, axis=1)).to(device, non_blocking=True)
            parts = joined.split([pairs.shape[1] for pairs in solved], dim=1)
            matches = {
                name: Match(part[0], part[1], part[2], sizes=np.bincount(pairs[0], minlength=len(costs[name])).tolist())
                for name, part, pairs in zip(predictions, parts, solved, strict=True)
            }
            return matches if self.ranking is None else self._ranked(matches, predictions, self.ranking)

    @torch.no_grad()
    def cost_matrices(self, predictions: Mapping[str, Predictions], targets: Targets) -> dict[str, np.ndarray]:
        """Compute the sum of all costs for each set, (B, Q, T), transferred to the CPU at once.

        Args:
            predictions, targets: see `Matcher`. T is the largest number of objects of an image; values beyond the
                number of an image's objects are meaningless.
        """
        predictions = with_targets(predictions, targets)
        groups: dict[tuple[object, ...], list[str]] = {}
        for name, predicted in predictions.items():
            groups.setdefault(predicted.packing_key(), []).append(name)
        blocks = []
        for group in groups.values():
            sets = [predictions[name].at_least_float32() for name in group]
            with torch.autocast(sets[0].logits.device.type, enabled=False):
                block = self._costs(sets, _targets(sets[0]).padded())
            blocks.append(_without_padding(block, sets))
        flat = torch.cat([block.flatten() for block in blocks]).cpu().numpy()
        parts = np.split(flat, np.cumsum([block.numel() for block in blocks])[:-1])
        matrices: dict[str, np.ndarray] = {}
        for group, block, part in zip(groups.values(), blocks, parts, strict=True):
            ends = np.cumsum([predictions[name].logits.shape[1] for name in group])
            matrices.update(zip(group, np.split(part.reshape(block.shape), ends[:-1], axis=1), strict=True))
        return matrices

    def _costs(self, sets: Sequence[Predictions], targets: PaddedTargets) -> Tensor:
        """Compute the sum of all costs, (B, Q, T), for the concatenated queries of all sets."""
        # Sets are concatenated, because on a GPU this saves the launch of most kernels.
        joined = LayerOutput.joined(sets)
        expected = (*joined.logits.shape[:2], targets.labels.shape[1])
        costs = []
        for name, cost in self.costs.items():
            if getattr(cost, "whole_sets", False):
                value = torch.cat([cost(LayerOutput.joined([predicted]), targets) for predicted in sets], dim=1)
            else:
                value = cost(joined, targets)
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            if shape != expected:
                raise ValueError(f"cost {name!r} gave {shape}; expected a tensor of shape (B, Q, T) = {expected}")
            costs.append(value)
        return torch.stack(costs).sum(0)

    @staticmethod
    def _ranked(
        matches: Mapping[str, Match], predictions: Mapping[str, Predictions], ranking: RankWeights
    ) -> dict[str, Match]:
        """Add weights to the matches."""
        ranked = {}
        for name, match in matches.items():
            predicted = predictions[name].at_least_float32()
            with torch.autocast(predicted.logits.device.type, enabled=False):
                ranked[name] = match._replace(weight=ranking(match, predicted, _targets(predicted)))
        return ranked

    def _warn_about_unmatched(self, name: str, objects: int, queries: int) -> None:
        if objects > queries and not self._warned:
            self._warned = True
            warnings.warn(
                f"an image has {objects} objects, but there are {queries} queries in the set of predictions {name!r}: "
                "some objects are left unmatched; use more queries (this warning is shown once)"
            )


def _targets(predicted: Predictions) -> Targets:
    assert isinstance(predicted.targets, Targets)
    return predicted.targets


def _without_padding(costs: Tensor, sets: Sequence[Predictions]) -> Tensor:
    """Set the costs (B, Q, T) of padding to `NEVER`, for the concatenated queries of several sets."""
    if all(predicted.padding is None for predicted in sets):
        return costs
    no_padding = costs.new_zeros(costs.shape[0], 1, dtype=torch.bool)
    padding = [
        no_padding.expand(-1, predicted.logits.shape[1]) if predicted.padding is None else predicted.padding
        for predicted in sets
    ]
    return costs.masked_fill(torch.cat(padding, dim=1)[..., None], NEVER)


def _solve(cost: np.ndarray, sizes: list[int], groups: int, candidates: int, name: str) -> np.ndarray:
    """cost: (B, Q, T_max). Returns (3, M) int64: image, query, target of each pair."""
    if not np.isfinite(cost).all():
        image = int(np.argmin(np.isfinite(cost).all(axis=(1, 2))))
        raise NonFiniteError(
            f"the matching cost of image {image} of the batch is not finite in the set of predictions {name!r}: "
            "the predicted logits or boxes are NaN or infinite"
        )
    pairs = []
    queries = cost.shape[1] // groups
    first = np.cumsum([0, *sizes[:-1]])
    for image, size in enumerate(sizes):
        for group in range(groups):
            start = group * queries
            block = cost[image, start : start + queries, :size]
            taking_part = int((block[:, 0] < NEVER).sum()) if size else 0
            copies = max(1, min(candidates, taking_part // (2 * size))) if size else 1
            query, column = linear_sum_assignment(np.tile(block, copies))
            target = column % size if size else column
            possible = block[query, target] < NEVER
            query, target = query[possible], target[possible]
            pairs.append(np.stack([np.full_like(query, image), query + start, target + first[image]]))
    return np.concatenate(pairs, axis=1)
