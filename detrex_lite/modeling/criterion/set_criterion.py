"""The set prediction loss of DETR: match, then compare what is matched, for every set of predictions."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ...distributed import mean_over_processes, world_size
from ...errors import did_you_mean
from ..matcher import HungarianMatcher
from ..predictions import Match, Predictions
from ..targets import Targets
from .losses import MatchedLoss


class SetCriterion(nn.Module):
    """Sums weighted losses over named sets of predictions (last layer, "_0".., "_enc", "_dn", ..).

    Args:
        matcher: finds which query answers for which object, for all sets at once that do not say so themselves.
        losses: base name -> loss, e.g. "loss_class", "loss_bbox", "loss_giou".
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
        device = targets.boxes.device
        with torch.autocast(device.type, enabled=False):
            outputs = {suffix: one.at_least_float32() for suffix, one in outputs.items()}
            own = [targets if one.targets is None else one.targets for one in outputs.values()]
            # Processes exchange these numbers, so they come before matching, which may fail in one of them alone.
            num_boxes = self._num_boxes(own)
            matches = self.match(outputs, targets)
            return {
                name + suffix: self.weights[name] * loss(predictions, match, its, count * predictions.repeats)
                for (suffix, predictions), match, its, count in zip(
                    outputs.items(), matches, own, num_boxes, strict=True
                )
                for name, loss in self.losses.items()
            }

    def match(self, outputs: Mapping[str, Predictions], targets: Targets) -> Sequence[Match]:
        """One Match per set of predictions, in their order."""
        return self.matcher(list(outputs.values()), targets)

    @staticmethod
    def _num_boxes(targets: Sequence[Targets]) -> Sequence[Tensor | float]:
        """Objects per process, averaged over processes and at least 1, so that all processes weigh objects alike."""
        if world_size() == 1:
            return [float(max(len(one), 1)) for one in targets]
        counts = torch.tensor([float(len(one)) for one in targets], device=targets[0].boxes.device)
        return mean_over_processes(counts).clamp(min=1).unbind()
