"""The intermediate results of a DETR's decoder for one image, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CrossAttention:
    """The cross-attention of the queries of one decoder layer in one image.

    Attributes:
        weights: (Q, H, S) attention weights, which sum to 1 for each query and head.
        points: (Q, H, S, 2) x and y in 0..1 of the image: the sampling points of deformable attention. None for
            attention to all cells of a feature map.
        grid: (height, width) of that map, whose S = height * width cells have the weights; None with points.
        levels: (S,) feature level of each point, 0 for the finest; None with a grid.
    """

    weights: np.ndarray
    points: np.ndarray | None = None
    grid: tuple[int, int] | None = None
    levels: np.ndarray | None = None

    def map_of(self, query: int) -> np.ndarray:
        """(height, width) the weight of each cell of the map for a query, as the mean over heads.

        Raises:
            ValueError: when the attention has sampling points instead.
        """
        if self.grid is None:
            raise ValueError("deformable attention has sampling points, not weights for all cells of a map")
        return self.weights[query].mean(axis=0).reshape(self.grid)


@dataclass(frozen=True)
class Inspection:
    """The predictions and the attention of L decoder layers for Q queries in one image.

    Attributes:
        size: (height, width) in pixels of the frame of the boxes.
        probabilities: (L, Q, K) class probabilities.
        boxes: (L, Q, 4) xyxy in pixels.
        attentions: the cross-attention of each decoder layer; None for kinds of attention that are not supported here.
    """

    size: tuple[int, int]
    probabilities: np.ndarray
    boxes: np.ndarray
    attentions: tuple[CrossAttention | None, ...]

    @property
    def scores(self) -> np.ndarray:
        """(Q,) the highest probability of each query in the last layer."""
        return self.probabilities[-1].max(axis=-1)

    @property
    def classes(self) -> np.ndarray:
        """(Q,) the class of each query in the last layer."""
        return self.probabilities[-1].argmax(axis=-1)

    def best_queries(self, number: int) -> list[int]:
        """The queries with the highest scores, the best first."""
        return [int(query) for query in np.argsort(-self.scores, kind="stable")[:number]]


@dataclass(frozen=True)
class QueryPlaces:
    """The queries and boxes of n detections in several images.

    Attributes:
        query: (n,) index of the query of each detection; in two-stage detectors its rank among the proposals.
        centres: (n, 2) x and y in 0..1 of the image.
        sizes: (n, 2) width and height in 0..1 of the image.
        num_queries: Q.
    """

    query: np.ndarray
    centres: np.ndarray
    sizes: np.ndarray
    num_queries: int

    def detections_per_query(self) -> np.ndarray:
        """(Q,) the number of detections of each query."""
        return np.bincount(self.query, minlength=self.num_queries)


def query_places(inspections: Sequence[Inspection], min_score: float = 0.3) -> QueryPlaces:
    """Collect the boxes of the queries that detect an object (DETR, Carion et al., ECCV 2020, figure 7).

    Args:
        inspections: inspections of several images by one model.
        min_score: minimum score of a detection.

    Raises:
        ValueError: when `inspections` is empty.
    """
    if not inspections:
        raise ValueError("query_places needs at least one inspected image")
    queries, boxes = [], []
    for inspection in inspections:
        chosen = np.flatnonzero(inspection.scores >= min_score)
        height, width = inspection.size
        queries.append(chosen)
        boxes.append(inspection.boxes[-1, chosen] / np.array([width, height, width, height]))
    corners = np.concatenate(boxes)
    centres, sizes = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    return QueryPlaces(np.concatenate(queries), centres, sizes, len(inspections[0].scores))


def refinement(inspections: Sequence[Inspection], min_score: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Measure how the layers refine the boxes and classes of detections.

    Args:
        inspections: inspections of several images by one model.
        min_score: minimum score of a detection in the last layer; in an image without such a query, the query with the
            highest score counts.

    Returns:
        (L,) the mean IoU of each layer's boxes with those of the last layer, and (L,) the mean probability that each
        layer predicts for the last layer's class.

    Raises:
        ValueError: when `inspections` is empty.
    """
    if not inspections:
        raise ValueError("refinement needs at least one inspected image")
    overlaps, probabilities = [], []
    for inspection in inspections:
        chosen = np.flatnonzero(inspection.scores >= min_score)
        chosen = chosen if len(chosen) else np.array(inspection.best_queries(1))
        boxes = inspection.boxes[:, chosen]
        overlaps.append(_iou(boxes, boxes[-1]))
        probabilities.append(inspection.probabilities[:, chosen, inspection.classes[chosen]])
    return np.concatenate(overlaps, axis=1).mean(axis=1), np.concatenate(probabilities, axis=1).mean(axis=1)


def kept_share(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The fraction of objects that are matched with the same query in two matchings.

    One minus this value is the instability of matching (DN-DETR, Li et al., CVPR 2022, section 3.2), between two layers
    or two times in training.

    Args:
        before, after: (..., T) the query of each object of the same images, -1 for none.

    Returns:
        (...,) in 0..1; nan when no object has a query in both matchings.
    """
    both = (before >= 0) & (after >= 0)
    number = both.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return np.where(number > 0, ((before == after) & both).sum(axis=-1) / number, np.nan)


def _iou(boxes: np.ndarray, references: np.ndarray) -> np.ndarray:
    """(L, n) IoU of boxes (L, n, 4) with `references` (n, 4), all xyxy."""
    sides = np.minimum(boxes[..., 2:], references[..., 2:]) - np.maximum(boxes[..., :2], references[..., :2])
    overlap = np.prod(np.maximum(sides, 0), axis=-1)
    areas = np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) + np.prod(
        references[..., 2:] - references[..., :2], axis=-1
    )
    return overlap / np.maximum(areas - overlap, 1e-12)
