"""Losses of boxes whose edges are predicted as distributions (D-FINE, Peng et al., ICLR 2025, sections 4.1 and 4.2).

Legend: B batch, R queries of all sets of an image, S sets, M matched pairs of all sets, N bins of a distribution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...structures import box_cxcywh_to_xyxy, box_iou
from ..edge_distributions import CORNERS, INITIAL, EdgeBins
from .comparison import Comparison
from .families import family
from .losses import Mean


class FineGrainedLocalizationLoss:
    """Cross-entropy of each edge's distribution with the two bins on either side of the target edge (FGL, eq. 6).

    The nearer bin has the larger weight, and pairs are weighted by the overlap of their boxes. Target edges beyond the
    last bins are clamped to them.

    Args:
        bins: the same bins as in the heads.

    Attributes:
        needs: sets of predictions without these further outputs do not have this loss.
    """

    needs = (CORNERS, INITIAL)

    def __init__(self, bins: EdgeBins):
        self.bins = bins

    def __call__(self, comparison: Comparison) -> Tensor:
        corners = comparison.matched(CORNERS)
        if corners.shape[-1] != len(self.bins):
            raise ValueError(
                f"distributions have {corners.shape[-1]} bins, but the loss was built for {len(self.bins)}: heads and "
                "loss must have equal `bins`"
            )
        with torch.no_grad():
            distances = self.bins.distances(comparison.matched(INITIAL), comparison.target_boxes)
            values = torch.tensor(self.bins.values(), dtype=distances.dtype).to(distances.device, non_blocking=True)
            left_bin = (torch.searchsorted(values, distances.contiguous(), right=True) - 1).clamp(0, len(self.bins) - 2)
            share = ((distances - values[left_bin]) / (values[left_bin + 1] - values[left_bin])).clamp(
                0, 1
            )  # of the right bin
            overlap = _overlap(comparison)
        logs = corners.log_softmax(-1)
        nearest = logs.gather(-1, torch.stack([left_bin, left_bin + 1], dim=-1))  # (M, 4, 2)
        return -overlap * (nearest * torch.stack([1 - share, share], dim=-1)).sum((-1, -2))


class DecoupledDistillationFocalLoss:
    """Distillation of the last layer's distributions into those of the earlier layers (DDF, eq. 7).

    The Kullback-Leibler divergence between softened distributions, without gradients for the teacher, is weighted by
    the localisation quality of a query: the overlap with the object for matched queries, and the probability of the
    teacher's best class for other queries. Both kinds are averaged separately and then weighted by the square roots of
    their numbers among the matching queries (see `Comparison.matched_share`), also for denoising queries, as in the
    authors' code.

    Args:
        temperature: divisor of the logits.

    Attributes:
        needs: sets of predictions without these further outputs do not have this loss. The loss of a last layer, which
            would be its own teacher, is 0.
        needs_matched_share: the loss is computed after all sets have been matched.
    """

    needs = (CORNERS,)
    needs_matched_share = True

    def __init__(self, temperature: float = 5.0):
        self.temperature = temperature

    def __call__(self, comparison: Comparison) -> Mean:
        assert comparison.matched_share is not None
        sizes = comparison.queries_per_set
        with torch.no_grad():
            teacher = _of_last_layers(comparison.extra[CORNERS], comparison) / self.temperature
            quality = _of_last_layers(comparison.logits, comparison).sigmoid().amax(-1)
            quality[comparison.image, comparison.query] = _overlap(comparison).to(quality.dtype)
            matched = torch.zeros_like(quality, dtype=torch.bool)
            matched[comparison.image, comparison.query] = True
            roots = torch.stack([comparison.matched_share, 1 - comparison.matched_share]).sqrt()
            first, second = (roots / roots.sum()).unbind()
            weights = torch.where(
                matched, first / _number_in_set(matched, sizes), second / _number_in_set(~matched, sizes)
            )
            # A last layer would be its own teacher.
            learns = [
                quality.new_full((size,), float(name != family(name)))
                for name, size in zip(comparison.names, sizes, strict=True)
            ]
        student = (comparison.extra[CORNERS] / self.temperature).log_softmax(-1)
        divergence = F.kl_div(student, teacher.log_softmax(-1), reduction="none", log_target=True).sum(-1).mean(-1)
        scaled = self.temperature**2 * quality * torch.cat(learns) * divergence
        return Mean(weights * scaled, weights)


def _overlap(comparison: Comparison) -> Tensor:
    """Compute the IoU of matched boxes, without gradients: (M,)."""
    predicted, target = (box_cxcywh_to_xyxy(boxes) for boxes in (comparison.boxes, comparison.target_boxes))
    return box_iou(predicted.detach(), target)


def _of_last_layers(values: Tensor, comparison: Comparison) -> Tensor:
    """Gather the values of the last layer of each set's family, at the positions of the set: (B, R, ...)."""
    parts = dict(zip(comparison.names, values.split(comparison.queries_per_set, dim=1), strict=True))
    return torch.cat([parts[family(name)] for name in comparison.names], dim=1)


def _number_in_set(selected: Tensor, sizes: list[int]) -> Tensor:
    """Return, for each query, the number of selected queries in its whole set: (R,), at least 1."""
    counts = [part.sum().clamp(min=1).expand(part.shape[1]) for part in selected.split(sizes, dim=1)]
    return torch.cat(counts)
