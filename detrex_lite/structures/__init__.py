"""Boxes, masks, instances and padded image batches, the inputs and outputs of detectors."""

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
from .masks import as_masks, checked_segmentation, filled_segmentations, has_pixels, masks_to_boxes, run_lengths

__all__ = [
    "Boxes",
    "ImageBatch",
    "Instances",
    "as_masks",
    "box_cxcywh_to_xyxy",
    "box_iou",
    "box_xyxy_to_cxcywh",
    "checked_segmentation",
    "filled_segmentations",
    "generalized_box_iou",
    "has_pixels",
    "inverse_sigmoid",
    "masks_to_boxes",
    "pairwise_generalized_box_iou",
    "pairwise_iou",
    "run_lengths",
]
