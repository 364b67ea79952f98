"""The set prediction loss of DETR: match, then compare what is matched, for every set of predictions."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ...distributed import mean_over_processes
from ...errors import did_you_mean
from ..matcher import HungarianMatcher
from ..predictions import Match, Predictions
from ..targets import Targets
from .comparison import Comparison
from .losses import MatchedLoss


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

        Raises:
            ValueError: when a loss does not give one value for each set.
            NonFiniteError: when a set cannot be matched, see `HungarianMatcher`.
        """
        with torch.autocast(targets.boxes.device.type, enabled=False):
            outputs = {suffix: one.at_least_float32() for suffix, one in outputs.items()}
            own = {suffix: targets if one.targets is None else one.targets for suffix, one in outputs.items()}
            # Processes exchange these numbers, so they come before matching, which may fail in one of them alone.
            num_boxes = self._num_boxes(outputs, own)
            known = {suffix: one.match for suffix, one in outputs.items() if one.match is not None}
            losses = self._compare(known, outputs, own, num_boxes)
            # Matching waits for the device, which has the losses of the others to compute meanwhile.
            matches = dict(zip(outputs, self.match(outputs, targets), strict=True))
            found = {suffix: match for suffix, match in matches.items() if suffix not in known}
            losses |= self._compare(found, outputs, own, num_boxes)
        return {name + suffix: losses[name + suffix] for suffix in outputs for name in self.losses}

    def match(self, outputs: Mapping[str, Predictions], targets: Targets) -> Sequence[Match]:
        """One Match per set of predictions, in their order."""
        return self.matcher(list(outputs.values()), targets)

    @staticmethod
    def _num_boxes(outputs: Mapping[str, Predictions], own: Mapping[str, Targets]) -> dict[str, Tensor]:
        """What the sums of each set are divided by.

        Objects per process, averaged over processes and at least 1, so that all processes weigh objects alike; times
        the queries that each has.
        """
        numbers = [[float(len(own[suffix])), float(one.repeats)] for suffix, one in outputs.items()]
        device = next(iter(own.values())).boxes.device
        counts, repeats = torch.tensor(numbers).to(device, non_blocking=True).unbind(1)
        return dict(zip(outputs, (mean_over_processes(counts).clamp(min=1) * repeats).unbind(), strict=True))

    def _compare(
        self,
        matches: Mapping[str, Match],
        outputs: Mapping[str, Predictions],
        own: Mapping[str, Targets],
        num_boxes: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """The weighted losses of the sets that have a match here."""
        groups: dict[tuple[int, ...], list[str]] = {}
        for suffix in matches:
            batch, _, classes = outputs[suffix].logits.shape
            groups.setdefault((batch, classes, id(own[suffix])), []).append(suffix)
        losses: dict[str, Tensor] = {}
        for group in groups.values():
            comparison = Comparison.of(
                [outputs[suffix] for suffix in group],
                [matches[suffix] for suffix in group],
                own[group[0]],
                torch.stack([num_boxes[suffix] for suffix in group]),
            )
            for name, loss in self.losses.items():
                values = loss(comparison)
                if values.shape != (len(group),):
                    raise ValueError(
                        f"{name} gave a tensor of shape {tuple(values.shape)} for {len(group)} sets of predictions; a "
                        "loss gives one value for each (Comparison.sum_of_queries and sum_of_matched add them up)"
                    )
                weighted = (self.weights[name] * values).unbind()
                losses |= {name + suffix: one for suffix, one in zip(group, weighted, strict=True)}
        return losses
