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

logger = logging.getLogger(__name__)

METRIC_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
"""The twelve numbers of COCO, in the order in which pycocotools has them."""


def build_ground_truth(dataset: Any) -> Any:
    """The annotations of a `DetectionDataset` as a `pycocotools.coco.COCO`, under the original ids."""
    category_ids = [int(category_id) for category_id in dataset.category_ids]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        record = dataset[index]
        image_id = int(record["image_id"])
        images.append({"id": image_id, "height": int(record["height"]), "width": int(record["width"])})
        boxes = record["boxes"].double().numpy()
        boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        objects = zip(
            boxes.tolist(),
            record["classes"].tolist(),
            record["iscrowd"].tolist(),
            record["area"].tolist(),
            strict=True,
        )
        for box, class_index, is_crowd, area in objects:
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
                }
            )
    categories = [
        {"id": category_id, "name": name} for category_id, name in zip(category_ids, dataset.class_names, strict=True)
    ]
    return _index({"images": images, "annotations": annotations, "categories": categories})


def evaluate_boxes(ground_truth: Any, predictions: list[dict[str, Any]]) -> dict[str, float]:
    """The metrics of `predictions` (COCO results) against `ground_truth` (from `build_ground_truth`).

    Returns:
        The twelve COCO numbers and `AP-<class name>` of each class, in percent; nan where there is no object.
    """
    from pycocotools.cocoeval import COCOeval

    annotations = [
        {**prediction, "id": number, "area": prediction["bbox"][2] * prediction["bbox"][3], "iscrowd": 0}
        for number, prediction in enumerate(predictions, 1)
    ]
    found = _index({**ground_truth.dataset, "annotations": annotations})
    evaluation = COCOeval(ground_truth, found, "bbox")
    with _prints_to_log():
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()

    metrics = {name: _percent(value) for name, value in zip(METRIC_NAMES, evaluation.stats.tolist(), strict=True)}
    precision = evaluation.eval["precision"]  # IoU thresholds, recalls, classes, sizes, detections per image
    for category in ground_truth.dataset["categories"]:
        valid = precision[:, :, evaluation.params.catIds.index(category["id"]), 0, -1]
        valid = valid[valid > -1]
        metrics[f"AP-{category['name']}"] = _percent(float(valid.mean()) if valid.size else -1)
    return metrics


def _index(content: dict[str, Any]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = content
    with _prints_to_log():
        coco.createIndex()
    return coco


def _percent(value: float) -> float:
    # pycocotools marks what has no ground truth with -1.
    return 100 * value if value > -1 else float("nan")


@contextlib.contextmanager
def _prints_to_log() -> Iterator[None]:
    prints = io.StringIO()
    with contextlib.redirect_stdout(prints):
        yield
    for line in prints.getvalue().splitlines():
        logger.debug("%s", line.rstrip())
