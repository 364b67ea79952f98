"""Conversion between this package's data and pycocotools' inputs and outputs.

pycocotools prints its progress and its summary to standard output; here both go to the log, at debug level. It is
imported on first use, because the import takes longer than that of the rest of this package.
"""

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from ..data import record_run_lengths

logger = logging.getLogger(__name__)

METRIC_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve numbers of COCO, in pycocotools' order."""


def build_ground_truth(dataset: Any, *, with_masks: bool = False) -> Any:
    """Convert the annotations of a `DetectionDataset` to a `pycocotools.coco.COCO` with the original ids.

    Args:
        dataset: the data set.
        with_masks: whether to include each object's `segmentation`, which costs time and memory.
    """
    category_ids = [int(category_id) for category_id in dataset.category_ids]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        record = dataset[index]
        image_id = int(record["image_id"])
        images.append({"id": image_id, "height": int(record["height"]), "width": int(record["width"])})
        boxes = record["boxes"].double().numpy()
        boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        segmentations = record_run_lengths(record) if with_masks else [None] * len(boxes)
        objects = zip(
            boxes.tolist(),
            record["classes"].tolist(),
            record["iscrowd"].tolist(),
            record["area"].tolist(),
            segmentations,
            strict=True,
        )
        for box, class_index, is_crowd, area, segmentation in objects:
            annotations.append(
                {
                    # Renumbered from 1, because pycocotools' matching treats id 0 as "not matched" and repeated ids as
                    # one object.
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_ids[class_index],
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(is_crowd),
                    **({"segmentation": segmentation} if with_masks else {}),
                }
            )
    categories = [
        {"id": category_id, "name": name} for category_id, name in zip(category_ids, dataset.class_names, strict=True)
    ]
    return indexed({"images": images, "annotations": annotations, "categories": categories})


def indexed(content: dict[str, Any]) -> Any:
    """Create a `pycocotools.coco.COCO` from the content of a COCO file."""
    coco = COCO()
    coco.dataset = content
    with prints_to_log():
        coco.createIndex()
    return coco


def metrics_of(evaluation: Any) -> dict[str, float]:
    """Return the metrics of an accumulated COCOeval of pycocotools, or of one with the same interface.

    Returns:
        The twelve COCO numbers and `AP-<class name>` of each class, in percent; nan without objects.
    """
    with prints_to_log():
        evaluation.summarize()
    # faster-coco-eval has further numbers after the twelve.
    stats = evaluation.stats[: len(METRIC_NAMES)].tolist()
    metrics = {name: _percent(value) for name, value in zip(METRIC_NAMES, stats, strict=True)}
    precision = evaluation.eval["precision"]  # IoU thresholds, recalls, classes, sizes, detections per image
    category_ids = list(evaluation.params.catIds)
    for category in evaluation.cocoGt.dataset["categories"]:
        valid = precision[:, :, category_ids.index(category["id"]), 0, -1]
        valid = valid[valid > -1]
        metrics[f"AP-{category['name']}"] = _percent(float(valid.mean()) if valid.size else -1)
    return metrics


def _percent(value: float) -> float:
    # pycocotools returns -1 for metrics without ground truth.
    return 100 * value if value > -1 else float("nan")


@contextlib.contextmanager
def prints_to_log() -> Iterator[None]:
    """Redirect printed output to the log within this context."""
    prints = io.StringIO()
    with contextlib.redirect_stdout(prints):
        yield
    for line in prints.getvalue().splitlines():
        logger.debug("%s", line.rstrip())
