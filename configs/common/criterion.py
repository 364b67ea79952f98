"""Criteria: matching costs and losses. A model config takes a criterion as a whole and changes values in it."""

from detrex_lite.config import LazyCall as L
from detrex_lite.modeling import (
    BoxL1Cost,
    BoxL1Loss,
    FocalCost,
    FocalLoss,
    GIoUCost,
    GIoULoss,
    HungarianMatcher,
    SetCriterion,
)

# For detectors with a sigmoid per class and without a class "no object": Deformable DETR and most later detectors.
focal_criterion = L(SetCriterion)(
    matcher=L(HungarianMatcher)(
        # L(dict), not a plain dict: detectron2 builds only what is inside a call.
        costs=L(dict)(
            label=L(FocalCost)(weight=2.0, alpha=0.25, gamma=2.0),
            bbox=L(BoxL1Cost)(weight=5.0),
            giou=L(GIoUCost)(weight=2.0, eps=1e-6),
        )
    ),
    losses=L(dict)(
        loss_class=L(FocalLoss)(alpha=0.25, gamma=2.0),
        loss_bbox=L(BoxL1Loss)(),
        loss_giou=L(GIoULoss)(eps=1e-6),
    ),
    weights=dict(loss_class=1.0, loss_bbox=5.0, loss_giou=2.0),
)
