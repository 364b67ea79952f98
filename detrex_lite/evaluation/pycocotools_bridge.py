"""What pycocotools wants to be given, and what it says, in this package's terms.

pycocotools prints its progress and its summary to standard output; here both go to the log, at debug level.
It is imported when it is first used, because importing it takes longer than all else in this package.
"""

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from ..data import record_masks
from ..structures import run_lengths

logger = logging.getLogger(__name__)

METRIC_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve numbers of COCO, in the order in which pycocotools has them."""


def build_ground_truth(dataset: Any, *, with_masks: bool = False) -> Any:
    """The annotations of a `DetectionDataset` as a `pycocotools.coco.COCO`, under the original ids.

    Args:
        dataset: the data set.
        with_masks: with each object's `segmentation`, polygons or run lengths, which take time and memory.
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
        segmentations = _segmentations(record) if with_masks else [None] * len(boxes)
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
                    # Numbered anew, from 1: the matching of pycocotools takes id 0 for "not matched", and
                    # ids that occur twice for one object.
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


def _segmentations(record: dict[str, Any]) -> list[Any]:
    """The masks of a record as COCO's files have them: polygons, which pycocotools fills, or run lengths."""
    if not isinstance(record["segmentations"], list):  # they are in a file of pixels
        return run_lengths(record_masks(record))
    return [
        {"size": one["size"], "counts": one["counts"].decode("ascii")}
        if isinstance(one, dict)
        else [polygon.tolist() for polygon in one]
        for one in record["segmentations"]
    ]


def indexed(content: dict[str, Any]) -> Any:
    """A `pycocotools.coco.COCO` of the content of a COCO file."""
    coco = COCO()
    coco.dataset = content
    with prints_to_log():
        coco.createIndex()
    return coco


def metrics_of(evaluation: Any) -> dict[str, float]:
    """What an accumulated COCOeval, pycocotools' or one with its interface, has found.

    Returns:
        The twelve COCO numbers and `AP-<class name>` of each class, in percent; nan where there is no object.
    """
    with prints_to_log():
        evaluation.summarize()
    # faster-coco-eval has further numbers behind the twelve.
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
    # pycocotools marks what has no ground truth with -1.
    return 100 * value if value > -1 else float("nan")


@contextlib.contextmanager
def prints_to_log() -> Iterator[None]:
    """What is printed inside goes to the log."""
    prints = io.StringIO()
    with contextlib.redirect_stdout(prints):
        yield
    for line in prints.getvalue().splitlines():
        logger.debug("%s", line.rstrip())
