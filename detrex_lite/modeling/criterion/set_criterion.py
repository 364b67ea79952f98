"""The set prediction loss of DETR: match, then compare what is matched, for every set of predictions."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...distributed import mean_over_processes
from ...errors import did_you_mean
from ..matcher import HungarianMatcher
from ..predictions import Match, Predictions
from ..targets import Targets
from .comparison import Comparison
from .losses import MatchedLoss


class _Set(NamedTuple):
    """A set of predictions, its objects, and what sums over it are divided by."""

    predictions: Predictions
    targets: Targets
    num_boxes: Tensor


class SetCriterion(nn.Module):
    """Sums weighted losses over named sets of predictions (last layer, "_0".., "_enc", "_dn", ..).

    Args:
        matcher: finds which query answers for which object, for all sets at once that do not say so themselves.
        losses: base name -> loss, computed for all sets at once, e.g. "loss_class", "loss_bbox", "loss_giou".
        weights: base name -> weight; every set of predictions uses the weight of the base name.

    Raises:
        ValueError: when a loss has no weight or a weight no loss.
    """

    def __init__(self, *, matcher: HungarianMatcher, losses: Mapping[str, MatchedLoss], weights: Mapping[str, float]):
        super().__init__()
        for name in losses:
            if name not in weights:
                raise ValueError(f"loss {name!r} has no weight{did_you_mean(name, weights)}")
        for name in weights:
            if name not in losses:
                raise ValueError(f"weight {name!r} belongs to no loss{did_you_mean(name, losses)}")
        self.matcher = matcher
        self.losses = dict(losses)
        self.weights = {name: float(weights[name]) for name in losses}

    def forward(self, outputs: Mapping[str, Predictions], targets: Targets) -> dict[str, Tensor]:
        """Compare.

        Args:
            outputs: suffix -> predictions, as `name_layers` makes them.
            targets: the batch's objects, which sets without targets of their own are compared with.

        Returns:
            Weighted losses under base name + suffix, in float32 (float64 for float64 predictions).
        """
        with torch.autocast(targets.boxes.device.type, enabled=False):
            outputs = {suffix: one.at_least_float32() for suffix, one in outputs.items()}
            # Processes exchange numbers in here, so it comes before matching, which may fail in one of them alone.
            sets = self._sets(outputs, targets)
            known = {suffix: one.match for suffix, one in outputs.items() if one.match is not None}
            losses = self._compare(sets, known)
            # Matching waits for the device, which has the losses of the others to compute meanwhile.
            unknown = {suffix: one for suffix, one in outputs.items() if one.match is None}
            found = dict(zip(unknown, self.match(unknown, targets), strict=True))
            losses |= self._compare(sets, found)
        return {name + suffix: losses[name + suffix] for suffix in outputs for name in self.losses}

    def match(self, outputs: Mapping[str, Predictions], targets: Targets) -> Sequence[Match]:
        """One Match per set of predictions, in their order."""
        return self.matcher(list(outputs.values()), targets)

    @staticmethod
    def _sets(outputs: Mapping[str, Predictions], targets: Targets) -> dict[str, _Set]:
        """Each set with what it is compared with."""
        own = {suffix: targets if one.targets is None else one.targets for suffix, one in outputs.items()}
        numbers = [[float(len(own[suffix])), float(one.repeats)] for suffix, one in outputs.items()]
        counts, repeats = torch.tensor(numbers).to(targets.boxes.device, non_blocking=True).unbind(1)
        # Averaged over processes and at least 1, so that all processes weigh objects alike.
        num_boxes = (mean_over_processes(counts).clamp(min=1) * repeats).unbind()
        return {
            suffix: _Set(one, own[suffix], number)
            for (suffix, one), number in zip(outputs.items(), num_boxes, strict=True)
        }

    def _compare(self, sets: Mapping[str, _Set], matches: Mapping[str, Match]) -> dict[str, Tensor]:
        """The weighted losses of the sets that have a match here."""
        groups: dict[tuple[int, ...], list[str]] = {}
        for suffix in matches:
            batch, _, classes = sets[suffix].predictions.logits.shape
            groups.setdefault((batch, classes, id(sets[suffix].targets)), []).append(suffix)
        losses: dict[str, Tensor] = {}
        for group in groups.values():
            predictions, (targets, *_), num_boxes = zip(*(sets[suffix] for suffix in group), strict=True)
            matched = [matches[suffix] for suffix in group]
            comparison = Comparison.of(predictions, matched, targets, torch.stack(num_boxes))
            for name, loss in self.losses.items():
                weighted = self.weights[name] * loss(comparison)
                losses |= {name + suffix: one for suffix, one in zip(group, weighted.unbind(), strict=True)}
        return losses
