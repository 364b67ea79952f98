"""COCO average precision of detections, under the image and category ids of the data set.

Implements the box metrics of the COCO challenge (Lin et al., ECCV 2014) with the challenge's own code,
pycocotools. The ground truth is built in memory from a `DetectionDataset`, so that every data format is
evaluated alike.
"""

import json
import logging
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import distributed
from ..errors import NonFiniteError
from .pycocotools_bridge import build_ground_truth, evaluate_boxes

logger = logging.getLogger(__name__)


class ImageDetections(NamedTuple):
    """What was found in one image, in arrays: a validation set's detections as dicts would take gigabytes."""

    image_id: int
    boxes: np.ndarray  # (D, 4) float64, x y width height in pixels of the original image
    scores: np.ndarray  # (D,) float64
    classes: np.ndarray  # (D,) int64, 0..K-1


class CocoEvaluator:
    """Collects detections image by image and computes COCO average precision over a whole data set.

    The objects' sizes (APs, APm, APl) follow the annotations' areas, as COCO has it, and crowds are regions
    in which detections are ignored.

    Args:
        dataset: a `DetectionDataset`. Without annotations only the predictions are written.
        output_dir: where `predictions.json` (COCO results) and `metrics.json` go; None writes nothing.
    """

    def __init__(self, *, dataset: Any, output_dir: str | Path | None = None):
        self.dataset = dataset
        self.output_dir = Path(output_dir) if output_dir else None
        self._known_ids = {int(image_id) for image_id in dataset.image_ids}
        self._detections: list[ImageDetections] = []
        self._ground_truth: Any = None

    def reset(self) -> None:
        """Forget all detections."""
        self._detections = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Add the detections of one batch.

        Args:
            inputs: the model's inputs, of which `image_id` (and for messages `file_name`) is read.
            outputs: the model's outputs: `instances` with `pred_boxes` (xyxy in pixels of the original
                image), `scores` and `pred_classes` (0..K-1).

        Raises:
            ValueError: when there are more or fewer outputs than inputs, for an image that the data set
                lacks, for boxes or scores that are not finite, and for a class that the data set lacks.
        """
        if len(inputs) != len(outputs):
            raise ValueError(f"the model returned {len(outputs)} outputs for {len(inputs)} inputs")
        for one_input, output in zip(inputs, outputs, strict=True):
            self._detections.append(self._checked(one_input, output["instances"]))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Gather the detections of all processes, write them, and compute the metrics.

        Every process must call this, and every process gets the result.

        Returns:
            `{"bbox": metrics}`, where metrics are in percent, 0..100: AP, AP50, AP75, APs, APm, APl, AR1,
            AR10, AR100, ARs, ARm, ARl and `AP-<class name>` for each class. What no annotation asks for (a
            class or a size without objects) is nan. `{}` when the data set has no annotations.
        """
        gathered = distributed.all_gather_objects(self._detections)
        results: dict[str, dict[str, float]] = {}
        if distributed.is_main_process():
            # Samplers that pad their shards to one length show some images twice; the first one counts.
            by_image: dict[int, ImageDetections] = {}
            for detections in (one for part in gathered for one in part):
                by_image.setdefault(detections.image_id, detections)
            results = self._evaluate_on_main(by_image)
        return distributed.broadcast_object(results)

    def _checked(self, one_input: dict[str, Any], instances: Any) -> ImageDetections:
        if "image_id" not in one_input:
            raise ValueError("an input of the model has no 'image_id': the evaluator cannot tell its image")
        image_id = int(one_input["image_id"])
        where = f"image {image_id}" + (f" ({one_input['file_name']})" if "file_name" in one_input else "")
        if image_id not in self._known_ids:
            raise ValueError(
                f"{where} is not in the data set {self.dataset.name!r} with its {len(self._known_ids)} images"
            )
        boxes = _to_numpy(instances.pred_boxes.tensor, np.float64).reshape(-1, 4)
        scores = _to_numpy(instances.scores, np.float64)
        classes = _to_numpy(instances.pred_classes, np.int64)
        for name, values in (("pred_boxes", boxes), ("scores", scores)):
            if not np.isfinite(values).all():
                raise NonFiniteError(f"{where}: {name} of the model have values that are not finite")
        num_classes = self.dataset.num_classes
        wrong = classes[(classes < 0) | (classes >= num_classes)]
        if wrong.size:
            raise ValueError(
                f"{where}: the model predicts class {wrong[0]}, but the data set {self.dataset.name!r} has "
                f"{num_classes} classes, 0..{num_classes - 1}; is num_classes of the model right?"
            )
        # A box that ends before it begins covers nothing.
        size = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
        return ImageDetections(image_id, np.concatenate([boxes[:, :2], size], axis=1), scores, classes)

    def _evaluate_on_main(self, by_image: dict[int, ImageDetections]) -> dict[str, dict[str, float]]:
        predictions = self._as_coco_results(by_image)
        self._write("predictions.json", predictions)
        if not self.dataset.has_annotations:
            where = f"predictions are in {self.output_dir}" if self.output_dir else "nothing is written"
            logger.warning("The data set %r has no annotations: no metrics; %s.", self.dataset.name, where)
            return {}
        if len(by_image) < len(self._known_ids):
            logger.warning(
                "Only %d of %d images were processed; the objects of the others count as missed.",
                len(by_image),
                len(self._known_ids),
            )
        start = time.perf_counter()
        if self._ground_truth is None:
            self._ground_truth = build_ground_truth(self.dataset)
        metrics = evaluate_boxes(self._ground_truth, predictions)
        logger.info(
            "Evaluated %d detections in %d images in %.1f s.",
            len(predictions),
            len(by_image),
            time.perf_counter() - start,
        )
        results = {"bbox": metrics}
        # JSON has no nan.
        finite = {name: None if math.isnan(value) else value for name, value in metrics.items()}
        self._write("metrics.json", {"bbox": finite}, indent=2)
        return results

    def _as_coco_results(self, by_image: dict[int, ImageDetections]) -> list[dict[str, Any]]:
        category_ids = [int(category_id) for category_id in self.dataset.category_ids]
        results = []
        for image_id in sorted(by_image):
            found = by_image[image_id]
            values = zip(found.classes.tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True)
            for class_index, box, score in values:
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": category_ids[class_index],
                        "bbox": box,
                        "score": score,
                    }
                )
        return results

    def _write(self, name: str, content: Any, indent: int | None = None) -> None:
        if self.output_dir is None:
            return
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with open(self.output_dir / name, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=indent, ensure_ascii=False, allow_nan=False)


def _to_numpy(tensor: Any, dtype: Any) -> np.ndarray:
    # Through float: NumPy has no bfloat16.
    tensor = tensor.detach().cpu()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy().astype(dtype)
