"""One-to-many assignment by overlap, as in detectors before DETR (DETA, Ouyang-Zhang et al., 2022, section 4).

Legend: Q queries of an image, T objects of an image.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from ...phases import phase
from ...structures import box_cxcywh_to_xyxy, pairwise_iou
from ..predictions import Match, Predictions, with_targets
from ..targets import Targets


class IoUAssigner:
    """Assigns to each object the queries whose boxes overlap it most, up to a number.

    A query is a candidate of the object with the largest overlap if their IoU is at least `iou_threshold`, or if no
    other box has a larger overlap with some object. If an image has more than `max_candidates` candidates, that many
    are drawn (with torch's global generator, whose state checkpoints contain). An object with n candidates is then
    assigned the min(n, `max_per_object`) queries with the largest IoU, which need not be the candidates. A query may be
    assigned to several objects, and an object without candidates gets no query.

    The boxes are the initial boxes of the queries (`Predictions.reference`): anchors of the encoder's tokens, or the
    initial boxes of the decoder. Sets with the same initial boxes, such as all layers of a decoder, share one match.
    Every query that is not assigned counts as background, so the published code's lower threshold for background has no
    effect.

    Args:
        iou_threshold: see above; DETA uses 0.7 for the encoder's tokens and 0.6 for the decoder's queries.
        num_samples: the largest number of sampled queries of an image, candidates and others: 256 and Q in DETA.
        positive_fraction: the largest fraction of candidates among them: 0.5 and 0.25 in DETA.
        max_per_object: the largest number of queries of an object.
        of_predictions: compare the predicted boxes instead, for detectors whose queries do not start from boxes; each
            set then has its own match.
        eps: added to the union in the denominator of the overlap; detrex uses 1e-6, the paper's repository 0.

    Raises:
        ValueError: when no query could ever be assigned.
    """

    def __init__(
        self,
        *,
        iou_threshold: float,
        num_samples: int,
        positive_fraction: float,
        max_per_object: int = 4,
        of_predictions: bool = False,
        eps: float = 1e-6,
    ):
        self.iou_threshold = iou_threshold
        self.max_candidates = int(num_samples * positive_fraction)
        self.max_per_object = max_per_object
        if self.max_candidates < 1 or max_per_object < 1:
            raise ValueError(
                f"num_samples={num_samples}, positive_fraction={positive_fraction} and max_per_object={max_per_object} "
                "would assign no query: the product of the first two and the last must be at least 1"
            )
        self.of_predictions = of_predictions
        self.eps = eps

    @torch.no_grad()
    def __call__(self, predictions: Mapping[str, Predictions], targets: Targets) -> dict[str, Match]:
        """See `Matcher`. Each match is sorted by object. Sets of several groups are assigned group by group.

        Raises:
            ValueError: for a set without initial boxes.
        """
        with phase("matching"), torch.autocast(targets.boxes.device.type, enabled=False):
            assigned: dict[tuple[object, ...], Match] = {}
            matches = {}
            for name, predicted in with_targets(predictions, targets).items():
                boxes = self._boxes(name, predicted)
                key = (id(boxes), id(predicted.targets), predicted.num_groups, id(predicted.padding))
                if key not in assigned:
                    assigned[key] = self._assign(boxes.to(predicted.boxes.dtype), predicted)
                matches[name] = assigned[key]
            return matches

    def _boxes(self, name: str, predicted: Predictions) -> Tensor:
        """Return the boxes to assign, (B, Q, 4) or (1, Q, 4) cxcywh."""
        boxes = predicted.boxes if self.of_predictions else predicted.reference
        if boxes is None or boxes.shape[-1] != 4:
            reference = "have no references" if boxes is None else "refer to points"
            raise ValueError(
                f"IoUAssigner compares boxes, but the queries of the set of predictions {name!r} {reference}: use "
                "of_predictions=True, or HungarianMatcher"
            )
        return boxes

    def _assign(self, boxes: Tensor, predicted: Predictions) -> Match:
        objects, groups = predicted.targets, predicted.num_groups
        assert isinstance(objects, Targets)
        boxes = boxes.expand(predicted.logits.shape[0], -1, -1).unflatten(1, (groups, -1))
        in_group = boxes.shape[2]
        padding = None if predicted.padding is None else predicted.padding.unflatten(1, (groups, -1))
        corners, target_corners = box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(objects.boxes).split(objects.sizes)
        # All shapes are known until pairs are counted, so there is only one synchronisation with the GPU.
        ranked = boxes.new_zeros(0, groups, min(self.max_per_object, in_group), dtype=torch.int64)
        parts = [(ranked, ranked.bool())]
        for image, image_targets in enumerate(target_corners):
            if len(image_targets):
                overlaps = pairwise_iou(image_targets, corners[image], self.eps)  # (G, T, q)
                if padding is not None:
                    overlaps = overlaps.masked_fill(padding[image, :, None], -1.0)
                results = [self._of_image(group_overlaps) for group_overlaps in overlaps]
                parts.append(
                    (
                        torch.stack([result[0] for result in results], 1),
                        torch.stack([result[1] for result in results], 1),
                    )
                )
        ranked, is_assigned = (torch.cat(part) for part in zip(*parts, strict=True))
        target, group, rank = is_assigned.nonzero(as_tuple=True)
        image_of_object = torch.arange(len(objects.sizes)).repeat_interleave(torch.tensor(objects.sizes))
        image_of_object = image_of_object.to(target.device, non_blocking=True)
        query = ranked[target, group, rank] + group * in_group
        return Match(image_of_object[target], query, target, shared_queries=True)

    def _of_image(self, overlaps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the best queries of each object, (T, k), and which of them are assigned to it, from IoUs (T, Q).

        IoUs are negative for queries that are padding.
        """
        objects, queries = overlaps.shape
        largest, owner = overlaps.max(0)
        is_candidate = (largest >= self.iou_threshold) | (overlaps == overlaps.amax(1, keepdim=True)).any(0)
        random_rank = torch.rand(queries, device=overlaps.device).masked_fill(~is_candidate, -1.0)
        is_drawn = torch.zeros_like(is_candidate)
        is_drawn[random_rank.topk(min(self.max_candidates, queries)).indices] = True
        number = torch.zeros(objects, dtype=torch.int64, device=overlaps.device)
        number.scatter_add_(0, owner, (is_drawn & is_candidate).long())
        values, ranked = overlaps.topk(min(self.max_per_object, queries), dim=1)
        return ranked, (torch.arange(ranked.shape[1], device=overlaps.device) < number[:, None]) & (values >= 0)
