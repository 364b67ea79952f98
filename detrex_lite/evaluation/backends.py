"""Backends of COCO average precision: pycocotools and faster-coco-eval, which compute the same numbers.

pycocotools matches in Python, which takes milliseconds per image, so each image is matched during inference, in the
process that ran it. faster-coco-eval matches in C++, all images at once at the end.
"""

import gc
import importlib.util
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.cocoeval import COCOeval

from ..errors import did_you_mean
from .pycocotools_bridge import indexed, metrics_of, prints_to_log

logger = logging.getLogger(__name__)

AUTO = "auto"

BOXES, MASKS = "bbox", "segm"
"""The types of comparison, with COCO's names; they are the groups of the metrics."""

Results = list[dict[str, Any]]
"""Detections of one image as COCO results: `image_id`, `category_id`, `bbox` (x y width height) and `score`; with masks
also `segmentation`, as run lengths."""


class Backend(Protocol):
    """Computes metrics from a ground truth of `build_ground_truth`.

    Attributes:
        name: the name by which users select it.
        reads_results: whether `metrics` needs the detections of all images, or only the results of `match`.
    """

    name: str
    reads_results: bool

    def match(self, image_id: int, results: Results) -> Any:
        """Compute the part of the evaluation for one image; the result is sent to the main process and may be None."""

    def metrics(self, results: Mapping[int, Results], matches: Mapping[int, Any]) -> dict[str, float]:
        """Compute the metrics of all images by `metrics_of`.

        Args:
            results: maps image ids to detections, which may be empty.
            matches: maps image ids to the results of `match`.
        """


class PycocotoolsBackend:
    """The challenge's own code, run image by image.

    Args:
        ground_truth: a `pycocotools.coco.COCO`.
        kind: `BOXES` or `MASKS`.
    """

    name = "pycocotools"
    reads_results = False

    def __init__(self, ground_truth: Any, kind: str):
        self._kind = kind
        self._evaluation = COCOeval(ground_truth, None, kind)
        evaluation, params = self._evaluation, self._evaluation.params
        params.imgIds = np.unique(params.imgIds).tolist()
        params.catIds = np.unique(params.catIds).tolist()
        self._category_index = {category_id: number for number, category_id in enumerate(params.catIds)}
        evaluation.cocoDt = indexed({**ground_truth.dataset, "annotations": []})
        evaluation._prepare()  # sorts the objects by image and category
        self._categories_of: dict[int, set[int]] = {}
        for image_id, category_id in evaluation._gts:
            self._categories_of.setdefault(image_id, set()).add(category_id)

    def match(self, image_id: int, results: Results) -> list[tuple[Any, ...]]:
        """Return a row for each category with objects or detections and each range of sizes.

        Returns:
            (category index, range index, scores (D,), matched (thresholds, D), ignored (thresholds, D), ignored
            objects (G,)): the parts of pycocotools' dicts that accumulation reads, as plain tuples, which Python's
            garbage collector soon stops tracking.
        """
        evaluation, params = self._evaluation, self._evaluation.params
        by_category: dict[int, Results] = {}
        for number, result in enumerate(results, 1):
            # Ids only need to differ from 0.
            detection = {**result, "id": number, "area": _area(result, self._kind)}
            by_category.setdefault(result["category_id"], []).append(detection)
        rows = []
        for category_id in sorted(self._categories_of.get(image_id, set()) | set(by_category)):
            key = image_id, category_id
            evaluation._dts[key] = by_category.get(category_id, [])
            evaluation.ious[key] = evaluation.computeIoU(*key)
            for number, sizes in enumerate(params.areaRng):
                match = evaluation.evaluateImg(*key, sizes, params.maxDets[-1])
                rows.append(
                    (
                        self._category_index[category_id],
                        number,
                        np.array(match["dtScores"], dtype=np.float64),
                        match["dtMatches"] != 0,
                        match["dtIgnore"].astype(bool),
                        np.array(match["gtIgnore"], dtype=bool),
                    )
                )
            del evaluation._dts[key], evaluation.ious[key]
        return rows

    def metrics(self, results: Mapping[int, Results], matches: Mapping[int, Any]) -> dict[str, float]:
        evaluation, params = self._evaluation, self._evaluation.params
        num_sizes, num_images = len(params.areaRng), len(params.imgIds)
        evaluation.evalImgs = [None] * (len(params.catIds) * num_sizes * num_images)
        for image_number, image_id in enumerate(params.imgIds):
            rows = matches[image_id] if image_id in matches else self.match(image_id, [])
            for category, size, scores, matched, ignored, ignored_objects in rows:
                evaluation.evalImgs[(category * num_sizes + size) * num_images + image_number] = {
                    "dtScores": scores,
                    "dtMatches": matched,
                    "dtIgnore": ignored,
                    "gtIgnore": ignored_objects,
                }
        evaluation._paramsEval = params
        with prints_to_log():
            evaluation.accumulate()
        evaluation.evalImgs = []
        return metrics_of(evaluation)


class FasterCocoEvalBackend:
    """The package faster-coco-eval, pycocotools' algorithm in C++.

    Args:
        ground_truth: a `pycocotools.coco.COCO`.
        kind: `BOXES` or `MASKS`.
    """

    name = "faster-coco-eval"
    reads_results = True

    def __init__(self, ground_truth: Any, kind: str):
        from faster_coco_eval.core.coco import COCO

        self._kind = kind
        self._content = ground_truth.dataset
        self._ground_truth = COCO(self._content)

    def match(self, image_id: int, results: Results) -> None:
        return None

    def metrics(self, results: Mapping[int, Results], matches: Mapping[int, Any]) -> dict[str, float]:
        from faster_coco_eval import COCOeval_faster
        from faster_coco_eval.core.coco import COCO

        annotations = [
            {**result, "id": number, "area": _area(result, self._kind), "iscrowd": 0}
            for number, result in enumerate((result for image in results.values() for result in image), 1)
        ]
        detections = COCO({**self._content, "annotations": annotations})
        evaluation = COCOeval_faster(self._ground_truth, detections, self._kind, print_function=logger.debug)
        evaluation.evaluate()
        evaluation.accumulate()
        return metrics_of(evaluation)


def _area(result: dict[str, Any], kind: str) -> float:
    """Return the area that decides whether a detection is small, medium or large: of its box or mask."""
    if kind == MASKS:
        return float(mask_utils.area(result["segmentation"]))
    return result["bbox"][2] * result["bbox"][3]


BACKENDS: dict[str, type[PycocotoolsBackend] | type[FasterCocoEvalBackend]] = {
    backend.name: backend for backend in (PycocotoolsBackend, FasterCocoEvalBackend)
}


def choose_backend(name: str) -> str:
    """Select a key of `BACKENDS`; "auto" selects faster-coco-eval if it is installed.

    Raises:
        ValueError: for an unknown backend, and for one that is not installed.
    """
    installed = importlib.util.find_spec("faster_coco_eval") is not None
    fast = FasterCocoEvalBackend.name
    if name == AUTO:
        return fast if installed else PycocotoolsBackend.name
    if name not in BACKENDS:
        choices = [AUTO, *BACKENDS]
        raise ValueError(f"unknown COCO evaluation backend={name!r}{did_you_mean(name, choices)}")
    if name == fast and not installed:
        raise ValueError(f"backend={name!r} is not installed: pip install {fast}, or use backend='auto'")
    return name


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection, which scans millions of objects here without finding reference cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
