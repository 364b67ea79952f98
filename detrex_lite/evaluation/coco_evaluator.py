"""COCO average precision of detections, under the image and category ids of the data set.

Implements the box metrics of the COCO challenge (Lin et al., ECCV 2014) with the challenge's own code,
pycocotools, or with faster-coco-eval. The ground truth is built in memory from a `DetectionDataset`, so that every
data format is evaluated alike. What can be done for one image alone is done as soon as its detections are there.
"""

import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import distributed
from ..checkpoint.files import replace_text
from ..errors import NonFiniteError
from .backends import AUTO, BACKENDS, Backend, Results, choose_backend, no_garbage_collection
from .pycocotools_bridge import METRIC_NAMES, build_ground_truth

logger = logging.getLogger(__name__)


class ImageDetections(NamedTuple):
    """What was found in one image, in arrays: a validation set's detections as dicts would take gigabytes."""

    image_id: int
    boxes: np.ndarray  # (D, 4) float64, x y width height in pixels of the original image
    scores: np.ndarray  # (D,) float64
    classes: np.ndarray  # (D,) int64, 0..K-1


class ImageResults(NamedTuple):
    """One image's detections, and what was made of them while inference went on."""

    detections: ImageDetections
    text: str  # its part of predictions.json; "" without detections, or when nothing is written
    matches: Any  # of `Backend.match`


class CocoEvaluator:
    """Collects detections image by image and computes COCO average precision over a whole data set.

    The objects' sizes (APs, APm, APl) follow the annotations' areas, as COCO has it, and crowds are regions
    in which detections are ignored.

    Args:
        dataset: a `DetectionDataset`. Without annotations only the predictions are written.
        output_dir: where `predictions.json` (COCO results) and `metrics.json` go; None writes nothing.
        backend: who computes the metrics, "pycocotools" or "faster-coco-eval": the numbers are the same. "auto" is
            faster-coco-eval where it is installed; the log tells which it was.

    Raises:
        ValueError: for another backend, or one that is not installed.
    """

    def __init__(self, *, dataset: Any, output_dir: str | Path | None = None, backend: str = AUTO):
        self.dataset = dataset
        self.backend = choose_backend(backend)
        self.output_dir = Path(os.path.expanduser(output_dir)) if output_dir else None
        self._known_ids = {int(image_id) for image_id in dataset.image_ids}
        self._category_ids = [int(category_id) for category_id in dataset.category_ids]
        self._images: list[ImageResults] = []
        self._backend: Backend | None = None

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What `evaluate` will give, as group/name: "bbox/AP". Empty for a data set without annotations."""
        if not self.dataset.has_annotations:
            return ()
        return tuple(f"bbox/{name}" for name in (*METRIC_NAMES, *(f"AP-{name}" for name in self.dataset.class_names)))

    def reset(self) -> None:
        """Forget all detections."""
        self._images = []

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
            self._images.append(self._prepared(self._checked(one_input, output["instances"])))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Gather the detections of all processes, write them, and compute the metrics.

        Every process must call this, and every process gets the result.

        Returns:
            `{"bbox": metrics}`, where metrics are in percent, 0..100: AP, AP50, AP75, APs, APm, APl, AR1,
            AR10, AR100, ARs, ARm, ARl and `AP-<class name>` for each class. What no annotation asks for (a
            class or a size without objects) is nan. `{}` when the data set has no annotations.
        """
        gathered = distributed.gather_objects(self._images)
        results: dict[str, dict[str, float]] = {}
        if distributed.is_main_process():
            # Samplers that pad their shards to one length show some images twice; the first one counts.
            by_image: dict[int, ImageResults] = {}
            for image in (one for part in gathered for one in part):
                by_image.setdefault(image.detections.image_id, image)
            with no_garbage_collection():
                results = self._evaluate_on_main({image_id: by_image[image_id] for image_id in sorted(by_image)})
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

    def _prepared(self, detections: ImageDetections) -> ImageResults:
        results = self._as_coco_results(detections)
        text = json.dumps(results, allow_nan=False)[1:-1] if self.output_dir is not None else ""
        matches = self._get_backend().match(detections.image_id, results) if self.dataset.has_annotations else None
        return ImageResults(detections, text, matches)

    def _evaluate_on_main(self, images: dict[int, ImageResults]) -> dict[str, dict[str, float]]:
        start = time.perf_counter()
        self._write("predictions.json", "[" + ", ".join(image.text for image in images.values() if image.text) + "]")
        if not self.dataset.has_annotations:
            where = f"predictions are in {self.output_dir}" if self.output_dir else "nothing is written"
            logger.warning("The data set %r has no annotations: no metrics; %s.", self.dataset.name, where)
            return {}
        if len(images) < len(self._known_ids):
            logger.warning(
                "Only %d of %d images were processed; the objects of the others count as missed.",
                len(images),
                len(self._known_ids),
            )
        metrics = self._get_backend().metrics(
            {image_id: self._as_coco_results(image.detections) for image_id, image in images.items()},
            {image_id: image.matches for image_id, image in images.items()},
        )
        count = sum(len(image.detections.scores) for image in images.values())
        if math.isnan(metrics["AP"]):
            logger.warning(
                "The data set %r has no object to find: AP is nan, and none of the %d detections is right.",
                self.dataset.name,
                count,
            )
        logger.info(
            "Evaluated %d detections in %d images by %s in %.1f s.",
            count,
            len(images),
            self.backend,
            time.perf_counter() - start,
        )
        results = {"bbox": metrics}
        # JSON has no nan.
        finite = {name: None if math.isnan(value) else value for name, value in metrics.items()}
        self._write("metrics.json", json.dumps({"bbox": finite}, indent=2, ensure_ascii=False, allow_nan=False))
        return results

    def _get_backend(self) -> Backend:
        """Made when the first image comes: a data set that is only described needs no ground truth."""
        if self._backend is None:
            self._backend = BACKENDS[self.backend](build_ground_truth(self.dataset))
        return self._backend

    def _as_coco_results(self, found: ImageDetections) -> Results:
        values = zip(found.classes.tolist(), found.boxes.tolist(), found.scores.tolist(), strict=True)
        return [
            {"image_id": found.image_id, "category_id": self._category_ids[number], "bbox": box, "score": score}
            for number, box, score in values
        ]

    def _write(self, name: str, text: str) -> None:
        if self.output_dir is not None:
            replace_text(self.output_dir / name, text)


def _to_numpy(tensor: Any, dtype: Any) -> np.ndarray:
    # Through float: NumPy has no bfloat16.
    tensor = tensor.detach().cpu()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy().astype(dtype)
