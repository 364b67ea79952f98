"""What goes on inside a DETR's decoder with one image, as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CrossAttention:
    """Where the queries of one decoder layer look, in one image.

    Attributes:
        weights: (Q, H, S), which add up to 1 for each query and head.
        points: (Q, H, S, 2), x and y in 0..1 of the image: the sampling points of deformable attention. None where
            queries look at all cells of a feature map.
        grid: (height, width) of that map, whose S = height * width cells the weights are for; None with points.
        levels: (S,) the feature level of each point, 0 the finest; None with a grid.
    """

    weights: np.ndarray
    points: np.ndarray | None = None
    grid: tuple[int, int] | None = None
    levels: np.ndarray | None = None

    def map_of(self, query: int) -> np.ndarray:
        """(height, width): the mean weight of heads for each cell of a map.

        Raises:
            ValueError: when the attention has points instead.
        """
        if self.grid is None:
            raise ValueError("deformable attention has sampling points, not weights for all cells of a map")
        return self.weights[query].mean(axis=0).reshape(self.grid)


@dataclass(frozen=True)
class Inspection:
    """What each of L decoder layers says about Q queries in one image.

    Attributes:
        size: (height, width) of the frame of the boxes, in pixels.
        probabilities: (L, Q, K).
        boxes: (L, Q, 4) xyxy in pixels.
        attentions: of each decoder layer where its queries look; None for a kind of attention that is not known here.
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
    """Which queries detect where, over several images.

    Attributes:
        query: (n,) the number of the query of each detection; with two stages its rank among the proposals.
        centres: (n, 2) x and y in 0..1 of the image.
        sizes: (n, 2) width and height in 0..1 of the image.
        num_queries: Q.
    """

    query: np.ndarray
    centres: np.ndarray
    sizes: np.ndarray
    num_queries: int

    def detections_per_query(self) -> np.ndarray:
        """(Q,) how many detections each query has made."""
        return np.bincount(self.query, minlength=self.num_queries)


def query_places(inspections: Sequence[Inspection], min_score: float = 0.3) -> QueryPlaces:
    """Collect the boxes of the queries that detect something (DETR, Carion et al., ECCV 2020, figure 7).

    Args:
        inspections: of several images by one model.
        min_score: what counts as a detection.

    Raises:
        ValueError: without inspections.
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
    """How detections become what they are, layer by layer.

    Args:
        inspections: of several images by one model.
        min_score: of the last layer, from which a query counts as a detection; where no query reaches it, the best one
            of the image counts.

    Returns:
        (L,) the mean IoU of a layer's boxes with those of the last layer, and (L,) the mean probability of the class
        that the last layer gives.

    Raises:
        ValueError: without inspections.
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
    """The share of objects that have the same query as before.

    One minus this is the instability of matching (DN-DETR, Li et al., CVPR 2022, section 3.2), between two layers or
    two moments of a training.

    Args:
        before, after: (..., T) the query of each object, -1 for none, of the same images.

    Returns:
        (...,) in 0..1; nan when no object has a query in both.
    """
    both = (before >= 0) & (after >= 0)
    number = both.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        return np.where(number > 0, ((before == after) & both).sum(axis=-1) / number, np.nan)


def _iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(L, n) of boxes (L, n, 4) with others (n, 4), xyxy."""
    sides = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2])
    overlap = np.prod(np.maximum(sides, 0), axis=-1)
    areas = np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) + np.prod(others[..., 2:] - others[..., :2], axis=-1)
    return overlap / np.maximum(areas - overlap, 1e-12)
