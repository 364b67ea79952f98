"""From predictions to detections in the frame of the original image."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..structures import Boxes, Instances, box_cxcywh_to_xyxy
from .predictions import Predictions
from .suppression import Suppression


class Selection(NamedTuple):
    """D candidates of each image, as many for all: what a graph of tensors gives.

    Attributes:
        scores: (B, D), 0..1.
        classes: (B, D).
        boxes: (B, D, 4) xyxy in 0..1 of the image.
        found: (B, D) bool, False for candidates that are no detections.
    """

    scores: Tensor
    classes: Tensor
    boxes: Tensor
    found: Tensor


class Postprocessor:
    """Selects candidates, and makes detections of them. Subclasses say which, in `candidates` and `settings`.

    Args:
        clip_boxes: clip boxes to the frame and drop those that are left without area, as detectron2 and so detrex. The
            papers' repositories return boxes as they are.
        suppression: leaves out candidates that repeat others, such as `NMS`; None for all candidates, which detectors
            trained one-to-one need.

    Attributes:
        with_masks: whether detections have masks, which exported graphs do not make.
    """

    with_masks = False

    def __init__(self, *, clip_boxes: bool = True, suppression: Suppression | None = None):
        self.clip_boxes = clip_boxes
        self.suppression = suppression

    def candidates(self, predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """Abstract. Scores (B, D), below 0 for what is no detection, classes (B, D) and boxes (B, D, 4) cxcywh."""
        raise NotImplementedError(f"{type(self).__name__} must implement candidates")

    def settings(self) -> dict[str, Any]:
        """What a program without torch needs to do the same: `kind`, and values by the names of arguments."""
        raise NotImplementedError(f"{type(self).__name__} must implement settings")

    def select(self, predictions: Predictions) -> Selection:
        """The candidates of each image."""
        scores, classes, boxes = self.candidates(predictions.at_least_float32())
        if self.suppression is not None:
            scores, classes, boxes = self.suppression(scores, classes, boxes)
        boxes, found = box_cxcywh_to_xyxy(boxes), ~(scores < 0)
        if self.clip_boxes:
            boxes = boxes.clamp(0, 1)
            found = found & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        return Selection(scores, classes, boxes, found)

    def __call__(self, predictions: Predictions, sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        """sizes: (height, width) in pixels of the frame that each image's boxes are wanted in."""
        results = []
        for (height, width), *one in zip(sizes, *self.select(predictions), strict=True):
            scores, classes, boxes, found = one
            absolute = Boxes(boxes[found])
            absolute.scale(width, height)
            results.append(
                Instances((height, width), pred_boxes=absolute, scores=scores[found], pred_classes=classes[found])
            )
        return results


class SoftmaxPostprocessor(Postprocessor):
    """Each query's best class that is not "no object" (the last one), as DETR: at most Q detections per image.

    Args:
        clip_boxes, suppression: see `Postprocessor`.
    """

    def candidates(self, predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """See `Postprocessor.candidates`: D is Q."""
        scores, classes = predictions.logits.softmax(-1)[..., :-1].max(-1)
        return _below_all(scores, predictions.padding), classes, predictions.boxes

    def settings(self) -> dict[str, Any]:
        """See `Postprocessor.settings`."""
        return {"kind": "softmax", "clip_boxes": self.clip_boxes}


class TopKPostprocessor(Postprocessor):
    """The best pairs of query and class under sigmoid, as Deformable DETR: a query may appear with several classes.

    Args:
        num_detections: the most per image; with a suppression, how many candidates it gets.
        clip_boxes, suppression: see `Postprocessor`.
    """

    def __init__(self, num_detections: int = 100, *, clip_boxes: bool = True, suppression: Suppression | None = None):
        super().__init__(clip_boxes=clip_boxes, suppression=suppression)
        self.num_detections = num_detections

    def candidates(self, predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """See `Postprocessor.candidates`: D is `num_detections`, or Q * K if less."""
        scores, classes, queries = self.best(predictions)
        return scores, classes, predictions.boxes.gather(1, queries[..., None].expand(-1, -1, 4))

    def best(self, predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, classes and queries of the best pairs, (B, D) each, the best first."""
        num_classes = predictions.logits.shape[-1]
        padding = None if predictions.padding is None else predictions.padding[..., None]
        probability = _below_all(predictions.logits.sigmoid(), padding).flatten(1)  # (B, Q * K)
        scores, best = probability.topk(min(self.num_detections, probability.shape[1]), dim=1)
        return scores, best % num_classes, best // num_classes

    def settings(self) -> dict[str, Any]:
        """See `Postprocessor.settings`."""
        return {"kind": "top_k", "num_detections": self.num_detections, "clip_boxes": self.clip_boxes}


def _below_all(scores: Tensor, padding: Tensor | None) -> Tensor:
    """Scores below 0 for queries that only fill up the batch: `Postprocessor.select` leaves them out."""
    return scores if padding is None else scores.masked_fill(padding, -1.0)
