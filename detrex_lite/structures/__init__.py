"""Boxes, instances and padded image batches: what detectors take and return."""

from .box_ops import (
    box_cxcywh_to_xyxy,
    box_iou,
    box_xyxy_to_cxcywh,
    generalized_box_iou,
    inverse_sigmoid,
    pairwise_generalized_box_iou,
    pairwise_iou,
)
from .boxes import Boxes
from .image_batch import ImageBatch
from .instances import Instances

__all__ = [
    "Boxes",
    "ImageBatch",
    "Instances",
    "box_cxcywh_to_xyxy",
    "box_iou",
    "box_xyxy_to_cxcywh",
    "generalized_box_iou",
    "inverse_sigmoid",
    "pairwise_generalized_box_iou",
    "pairwise_iou",
]
