"""From predictions to detections in the frame of the original image."""

from collections.abc import Sequence

from torch import Tensor

from ..structures import Boxes, Instances, box_cxcywh_to_xyxy
from .predictions import Predictions


class SoftmaxPostprocessor:
    """Each query's best class that is not "no object" (the last one), as DETR: at most Q detections per image.

    Args:
        clip_boxes: see `TopKPostprocessor`.
    """

    def __init__(self, *, clip_boxes: bool = True):
        self.clip_boxes = clip_boxes

    def __call__(self, predictions: Predictions, sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        """sizes: (height, width) in pixels of the frame that each image's boxes are wanted in."""
        predictions = predictions.at_least_float32()
        scores, classes = predictions.logits.softmax(-1)[..., :-1].max(-1)
        scores = _below_all(scores, predictions.padding)
        return _to_instances(scores, classes, predictions.boxes, sizes, clip=self.clip_boxes)


class TopKPostprocessor:
    """The best pairs of query and class under sigmoid, as Deformable DETR: a query may appear with several classes.

    Args:
        num_detections: the most per image.
        clip_boxes: clip boxes to the frame and drop those that are left without area, as detectron2 and so detrex. The
            papers' repositories return boxes as they are.
    """

    def __init__(self, num_detections: int = 100, *, clip_boxes: bool = True):
        self.num_detections = num_detections
        self.clip_boxes = clip_boxes

    def __call__(self, predictions: Predictions, sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        """sizes: (height, width) in pixels of the frame that each image's boxes are wanted in."""
        predictions = predictions.at_least_float32()
        num_classes = predictions.logits.shape[-1]
        padding = None if predictions.padding is None else predictions.padding[..., None]
        probability = _below_all(predictions.logits.sigmoid(), padding).flatten(1)  # (B, Q * K)
        scores, best = probability.topk(min(self.num_detections, probability.shape[1]), dim=1)
        queries = (best // num_classes)[..., None].expand(-1, -1, 4)
        boxes = predictions.boxes.gather(1, queries)
        return _to_instances(scores, best % num_classes, boxes, sizes, clip=self.clip_boxes)


def _below_all(scores: Tensor, padding: Tensor | None) -> Tensor:
    """Scores below 0 for queries that only fill up the batch: `_to_instances` leaves them out."""
    return scores if padding is None else scores.masked_fill(padding, -1.0)


def _to_instances(
    scores: Tensor, classes: Tensor, boxes: Tensor, sizes: Sequence[tuple[int, int]], *, clip: bool
) -> list[Instances]:
    """scores, classes: (B, D); boxes: (B, D, 4) cxcywh in 0..1. Clipped boxes that are left without area go.

    So do scores below 0.
    """
    results = []
    for one_scores, one_classes, one_boxes, (height, width) in zip(scores, classes, boxes, sizes, strict=True):
        absolute = Boxes(box_cxcywh_to_xyxy(one_boxes))
        absolute.scale(width, height)
        if clip:
            absolute.clip((height, width))
        found = Instances((height, width), pred_boxes=absolute, scores=one_scores, pred_classes=one_classes)
        keep = ~(one_scores < 0)
        results.append(found[keep & absolute.nonempty() if clip else keep])
    return results
