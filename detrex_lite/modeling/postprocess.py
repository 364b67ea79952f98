"""Conversion of predictions to detections in the frame of the original image."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..structures import Boxes, Instances, box_cxcywh_to_xyxy
from .predictions import Predictions
from .suppression import Suppression


class Selection(NamedTuple):
    """D candidates of each image, the same number for all images, as a graph of tensors returns them.

    Attributes:
        scores: (B, D), 0..1.
        classes: (B, D).
        boxes: (B, D, 4) xyxy in 0..1 of the image.
        found: (B, D) bool, False for candidates that are not detections.
    """

    scores: Tensor
    classes: Tensor
    boxes: Tensor
    found: Tensor


class Postprocessor:
    """Selects candidates and makes detections of them. Subclasses implement `candidates` and `settings`.

    Args:
        clip_boxes: clip boxes to the frame and drop boxes without area, as detectron2 and detrex do. The papers'
            repositories return unclipped boxes.
        suppression: removes duplicate candidates, such as `NMS`; None for all candidates, which suits detectors trained
            one-to-one.

    Attributes:
        with_masks: whether detections have masks, which exported graphs do not support.
    """

    with_masks = False

    def __init__(self, *, clip_boxes: bool = True, suppression: Suppression | None = None):
        self.clip_boxes = clip_boxes
        self.suppression = suppression

    def candidates(self, predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """Abstract. Scores (B, D), negative for non-detections, classes (B, D) and boxes (B, D, 4) cxcywh."""
        raise NotImplementedError(f"{type(self).__name__} must implement candidates")

    def settings(self) -> dict[str, Any]:
        """Abstract. The settings that a program without torch needs: `kind`, and values by argument name."""
        raise NotImplementedError(f"{type(self).__name__} must implement settings")

    def select(self, predictions: Predictions) -> Selection:
        """Select the candidates of each image."""
        scores, classes, boxes = self.candidates(predictions.at_least_float32())
        if self.suppression is not None:
            scores, classes, boxes = self.suppression(scores, classes, boxes)
        boxes, is_detection = box_cxcywh_to_xyxy(boxes), ~(scores < 0)
        if self.clip_boxes:
            boxes = boxes.clamp(0, 1)
            is_detection = is_detection & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        return Selection(scores, classes, boxes, is_detection)

    def __call__(self, predictions: Predictions, sizes: Sequence[tuple[int, int]]) -> list[Instances]:
        """sizes: (height, width) in pixels of the frame of each image's boxes."""
        results = []
        for (height, width), *selected in zip(sizes, *self.select(predictions), strict=True):
            scores, classes, boxes, is_detection = selected
            absolute = Boxes(boxes[is_detection])
            absolute.scale(width, height)
            results.append(
                Instances(
                    (height, width),
                    pred_boxes=absolute,
                    scores=scores[is_detection],
                    pred_classes=classes[is_detection],
                )
            )
        return results


class SoftmaxPostprocessor(Postprocessor):
    """The best class of each query other than "no object" (the last one), as in DETR: at most Q detections per image.

    Args:
        clip_boxes, suppression: see `Postprocessor`.
    """

    def candidates(self, predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """See `Postprocessor.candidates`: D is Q."""
        scores, classes = predictions.logits.softmax(-1)[..., :-1].max(-1)
        return _mask_padding(scores, predictions.padding), classes, predictions.boxes

    def settings(self) -> dict[str, Any]:
        """See `Postprocessor.settings`."""
        return {"kind": "softmax", "clip_boxes": self.clip_boxes}


class TopKPostprocessor(Postprocessor):
    """The best pairs of query and class under sigmoid, as in Deformable DETR; a query may have several classes.

    Args:
        num_detections: largest number of detections per image; with a suppression, number of its candidates.
        clip_boxes, suppression: see `Postprocessor`.
    """

    def __init__(self, num_detections: int = 100, *, clip_boxes: bool = True, suppression: Suppression | None = None):
        super().__init__(clip_boxes=clip_boxes, suppression=suppression)
        self.num_detections = num_detections

    def candidates(self, predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """See `Postprocessor.candidates`: D is `num_detections`, or Q * K if that is less."""
        scores, classes, queries = self.best(predictions)
        return scores, classes, predictions.boxes.gather(1, queries[..., None].expand(-1, -1, 4))

    def best(self, predictions: Predictions) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores, classes and queries of the best pairs, (B, D) each, best first."""
        num_classes = predictions.logits.shape[-1]
        padding = None if predictions.padding is None else predictions.padding[..., None]
        probability = _mask_padding(predictions.logits.sigmoid(), padding).flatten(1)  # (B, Q * K)
        scores, best = probability.topk(min(self.num_detections, probability.shape[1]), dim=1)
        return scores, best % num_classes, best // num_classes

    def settings(self) -> dict[str, Any]:
        """See `Postprocessor.settings`."""
        return {"kind": "top_k", "num_detections": self.num_detections, "clip_boxes": self.clip_boxes}


def _mask_padding(scores: Tensor, padding: Tensor | None) -> Tensor:
    """Give padding queries negative scores, so that `Postprocessor.select` removes them."""
    return scores if padding is None else scores.masked_fill(padding, -1.0)
