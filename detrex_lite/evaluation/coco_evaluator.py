"""COCO average precision of detections, with the image and category ids of the data set.

Implements the box and mask metrics of the COCO challenge (Lin et al., ECCV 2014) with the challenge's own code,
pycocotools, or with faster-coco-eval. The ground truth is built in memory from a `DetectionDataset`, so that all data
formats are evaluated in the same way. Each image is processed as far as possible when its detections arrive.
"""

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import distributed
from ..analysis import ERRORS_FILE, Analysis, Masks, analyse, make_detections, objects_of, to_json, write_errors
from ..checkpoint.files import replace_text
from ..errors import NonFiniteError
from ..structures.masks import run_lengths
from .backends import AUTO, BACKENDS, BOXES, MASKS, Backend, Results, choose_backend, no_garbage_collection
from .inputs import image_of, missing_images
from .pycocotools_bridge import METRIC_NAMES, build_ground_truth

logger = logging.getLogger(__name__)

NUM_WORST = 50
"""Images that are listed in `errors.json`."""


class ImageDetections(NamedTuple):
    """The detections of one image as arrays, because as dicts those of a validation set would take gigabytes."""

    image_id: int
    size: tuple[int, ...]  # (height, width) in pixels of the original image
    boxes: np.ndarray  # (D, 4) float64, x y width height in pixels of the original image
    scores: np.ndarray  # (D,) float64
    classes: np.ndarray  # (D,) int64, 0..K-1
    masks: list[str] | None  # D compressed run lengths; None for a model without masks
    input_scale: float  # the side of the model's input divided by that of the original image; nan if it is not known


class ImageResults(NamedTuple):
    """The detections of one image and what was computed from them during inference."""

    detections: ImageDetections
    text: str  # its part of predictions.json; "" without detections, or when nothing is written
    matches: dict[str, Any]  # results of `Backend.match` for `BOXES` and, with masks, for `MASKS`


class CocoEvaluator:
    """Collects detections image by image and computes COCO average precision over a whole data set.

    Boxes are always compared; masks if the model returns `pred_masks` and the data set has masks. Masks are converted
    to run lengths immediately, before anything is stored or sent to another process.

    The sizes of objects (APs, APm, APl) follow the areas of the annotations, as in COCO, and detections in crowds are
    ignored. The size of a detection is that of its box, or of its mask when masks are compared.

    Args:
        dataset: a `DetectionDataset`. Without annotations only the predictions are written.
        output_dir: where `predictions.json` (COCO results with the `file_name` of the data set's image, and masks as
            `segmentation`), `metrics.json` and `errors.json` (what is wrong with the boxes and with the masks, and the
            worst images with their file names) go; None writes nothing.
        backend: who computes the metrics, "pycocotools" or "faster-coco-eval": the numbers are the same. "auto" is
            faster-coco-eval where it is installed; the log tells which it was.
        further_classes: how many classes the model has behind those of the data set. What is found of them is left out:
            the stuff of a panoptic model, where `dataset` has the things.
        find_errors: whether errors are looked for, which takes 14 s for 300 detections in each image of COCO's
            validation set, and about twice that time in addition for masks, whose run lengths are kept until then.

    Attributes:
        analyses: what is wrong with the "boxes" of the last evaluation and, with mask AP, with its "masks"; empty on
            other processes than the main one, and without annotations.

    Raises:
        ValueError: for another backend, or one that is not installed, and for a negative number of classes.
    """

    def __init__(
        self,
        *,
        dataset: Any,
        output_dir: str | Path | None = None,
        backend: str = AUTO,
        further_classes: int = 0,
        find_errors: bool = True,
    ):
        if further_classes < 0:
            raise ValueError(f"further_classes must be a number of classes from 0, got {further_classes}")
        self.dataset = dataset
        self.further_classes = further_classes
        self.backend = choose_backend(backend)
        self.output_dir = Path(os.path.expanduser(output_dir)) if output_dir else None
        self._positions = {int(image_id): index for index, image_id in enumerate(dataset.image_ids)}
        self._category_ids = [int(category_id) for category_id in dataset.category_ids]
        self._images: list[ImageResults] = []
        self._has_masks = dataset.segmentations is not None
        self._with_masks: bool | None = None  # whether the model returns masks; None before the first output
        self._backends: dict[str, Backend] = {}
        self.find_errors = find_errors
        self.analyses: dict[str, Analysis] = {}

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics that `evaluate` can return, as group/name: "bbox/AP", and "segm/AP" if the data set has masks.

        Empty for a data set without annotations.
        """
        if not self.dataset.has_annotations:
            return ()
        names = *METRIC_NAMES, *(f"AP-{name}" for name in self.dataset.class_names)
        kinds = (BOXES, MASKS) if self._has_masks else (BOXES,)
        return tuple(f"{kind}/{name}" for kind in kinds for name in names)

    def reset(self) -> None:
        """Discard all detections."""
        self._images = []
        self._with_masks = None
        self.analyses = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Add the detections of one batch.

        Args:
            inputs: the model's inputs, of which `image_id` is read (and `file_name` for messages).
            outputs: the model's outputs: `instances` with `pred_boxes` (xyxy in pixels of the original image), `scores`
                and `pred_classes` (0..K-1) and, for a model with masks, `pred_masks` (n, height, width) bool.

        Raises:
            ValueError: when the numbers of outputs and inputs differ, for an image or a class that the data set does
                not have, for boxes or scores that are not finite, for masks of the wrong size or dtype, and if only
                some outputs have masks.
        """
        if len(inputs) != len(outputs):
            raise ValueError(f"the model returned {len(outputs)} outputs for {len(inputs)} inputs")
        for one_input, output in zip(inputs, outputs, strict=True):
            self._images.append(self._prepared(self._checked(one_input, output["instances"])))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Gather the detections of all processes, write them, and compute the metrics.

        Every process must call this and gets the result.

        Returns:
            `{"bbox": metrics}`, and with masks `{"bbox": metrics, "segm": metrics}`, where metrics are in percent,
            0..100: AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl and `AP-<class name>` for each class.
            Metrics without ground truth (a class or a size without objects) are nan. `{}` when the data set has no
            annotations.
        """
        gathered = distributed.gather_objects(self._images)
        results: dict[str, dict[str, float]] = {}
        if distributed.is_main_process():
            # Samplers that pad their shards to equal length repeat some images; only the first result counts.
            by_image: dict[int, ImageResults] = {}
            for image in (image_result for part in gathered for image_result in part):
                by_image.setdefault(image.detections.image_id, image)
            with no_garbage_collection():
                results = self._evaluate_on_main({image_id: by_image[image_id] for image_id in sorted(by_image)})
        return distributed.broadcast_object(results)

    def _checked(self, model_input: dict[str, Any], instances: Any) -> ImageDetections:
        image_id, where = image_of(model_input, self.dataset, self._positions)
        num_classes = self.dataset.num_classes
        classes = _to_numpy(instances.pred_classes, np.int64)
        wrong = classes[(classes < 0) | (classes >= num_classes + self.further_classes)]
        if wrong.size:
            further = f" and {self.further_classes} further_classes" if self.further_classes else ""
            raise ValueError(
                f"{where}: the model predicts class {wrong[0]}, but the data set {self.dataset.name!r} has "
                f"{num_classes} classes, 0..{num_classes - 1}{further}; is num_classes of the model right?"
            )
        if self.further_classes:
            instances = instances[instances.pred_classes < num_classes]
            classes = classes[classes < num_classes]
        boxes = _to_numpy(instances.pred_boxes.tensor, np.float64).reshape(-1, 4)
        scores = _to_numpy(instances.scores, np.float64)
        for name, values in (("pred_boxes", boxes), ("scores", scores)):
            if not np.isfinite(values).all():
                raise NonFiniteError(f"{where}: {name} of the model have values that are not finite")
        # A box with its end before its start has no area.
        sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
        boxes = np.concatenate([boxes[:, :2], sides], axis=1)
        size = tuple(int(model_input.get(side, instances.image_size[k])) for k, side in enumerate(("height", "width")))
        masks = self._encode_masks(where, instances, size)
        image = model_input.get("image")
        input_scale = math.nan if image is None else math.sqrt(math.prod(image.shape[-2:]) / math.prod(size))
        return ImageDetections(image_id, size, boxes, scores, classes, masks, input_scale)

    def _encode_masks(self, where: str, instances: Any, size: tuple[int, ...]) -> list[str] | None:
        with_masks = instances.has("pred_masks")
        if self._with_masks is None:
            self._with_masks = with_masks
            if with_masks and self.dataset.has_annotations and not self._has_masks:
                logger.warning(
                    "The model returns masks, but the data set %r has none: there is no mask AP.", self.dataset.name
                )
        if with_masks != self._with_masks:
            present, previous = ("has pred_masks", "had none") if with_masks else ("has no pred_masks", "had some")
            raise ValueError(f"{where}: the model's output {present}, but previous outputs {previous}")
        if not with_masks:
            return None
        masks = instances.pred_masks
        if masks.dtype != torch.bool or tuple(masks.shape[1:]) != size:
            raise ValueError(
                f"{where}: pred_masks of the model must be bool (n, {size[0]}, {size[1]}), the height and width of the "
                f"image, got {masks.dtype} {tuple(masks.shape)}"
            )
        return [run_length["counts"] for run_length in run_lengths(masks)]

    def _prepared(self, detections: ImageDetections) -> ImageResults:
        results = self._as_coco_results(detections)
        text = self._as_text(results, detections.image_id) if self.output_dir is not None else ""
        matches = {kind: self._get_backend(kind).match(detections.image_id, results) for kind in self._kinds()}
        if MASKS not in matches or not (BACKENDS[self.backend].reads_results or self.find_errors):
            detections = detections._replace(masks=None)  # masks are matched already and need not be sent
        return ImageResults(detections, text, matches)

    def _as_text(self, results: Results, image_id: int) -> str:
        """Format the image's part of predictions.json: COCO results with the file name and possibly further keys."""
        folder = os.path.join(self.dataset.image_root, "")
        name = self.dataset.file_name(self._positions[image_id]).removeprefix(folder)
        named = [{"image_id": image_id, "file_name": name, **result} for result in results]
        return json.dumps(named, allow_nan=False)[1:-1]

    def _kinds(self) -> tuple[str, ...]:
        """Return the types of comparison that are possible."""
        if not self.dataset.has_annotations:
            return ()
        return (BOXES, MASKS) if self._with_masks and self._has_masks else (BOXES,)

    def _evaluate_on_main(self, images: dict[int, ImageResults]) -> dict[str, dict[str, float]]:
        start = time.perf_counter()
        self._write("predictions.json", "[" + ", ".join(image.text for image in images.values() if image.text) + "]")
        if not self.dataset.has_annotations:
            where = f"predictions are in {self.output_dir}" if self.output_dir else "nothing is written"
            logger.warning("The data set %r has no annotations: no metrics; %s.", self.dataset.name, where)
            return {}
        missing_images(self.dataset, self._positions, images, "objects")
        coco_results = {image_id: self._as_coco_results(image.detections) for image_id, image in images.items()}
        kinds = next((tuple(image.matches) for image in images.values()), (BOXES,))
        results = {
            kind: self._get_backend(kind).metrics(
                coco_results, {image_id: image.matches[kind] for image_id, image in images.items()}
            )
            for kind in kinds
        }
        count = sum(len(image.detections.scores) for image in images.values())
        if math.isnan(results[BOXES]["AP"]):
            logger.warning(
                "The data set %r has no objects: AP is nan, and all %d detections are false positives.",
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
        if self.output_dir is not None:
            write_metrics(self.output_dir / "metrics.json", results)
        if self.find_errors:
            detections = [image.detections for image in images.values()]
            analyses = self._analyse(detections, with_masks=MASKS in kinds)
            self.analyses = {analysis.shapes: analysis for analysis in analyses}
            if self.output_dir is not None:
                content = {
                    shapes: {**to_json(analysis), "worst_images": worst_images(analysis, self.dataset)}
                    for shapes, analysis in self.analyses.items()
                }
                write_errors(self.output_dir / ERRORS_FILE, content)
        return results

    def _analyse(self, images: Sequence[ImageDetections], *, with_masks: bool) -> Iterator[Analysis]:
        """Yield the analysis of the boxes and, with masks, that of the masks."""
        positions = [self._positions[image.image_id] for image in images]
        numbers = [len(image.scores) for image in images]
        masks = None
        if with_masks:
            counts = [run_length for image in images for run_length in image.masks or ()]
            masks = Masks(counts, np.repeat([image.size for image in images], numbers, axis=0))
        boxes = np.concatenate([np.zeros((0, 4)), *(image.boxes for image in images)])
        boxes = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        detections = make_detections(
            np.repeat(np.asarray(positions, dtype=np.int64), numbers),
            boxes,
            np.concatenate([np.zeros(0), *(image.classes for image in images)]),
            np.concatenate([np.zeros(0), *(image.scores for image in images)]),
            masks,
        )
        input_scales = np.full(len(self.dataset), np.nan)
        input_scales[positions] = [image.input_scale for image in images]
        objects = objects_of(self.dataset, masks=with_masks)
        names = self.dataset.class_names
        yield analyse(replace(objects, masks=None), replace(detections, masks=None), names, input_scales=input_scales)
        if with_masks:
            yield analyse(objects, detections, names, input_scales=input_scales)

    def _get_backend(self, kind: str) -> Backend:
        """Create the backend when the first image arrives, since a data set that is only described needs none."""
        if kind not in self._backends:
            ground_truth = build_ground_truth(self.dataset, with_masks=kind == MASKS)
            self._backends[kind] = BACKENDS[self.backend](ground_truth, kind)
        return self._backends[kind]

    def _as_coco_results(self, detections: ImageDetections) -> Results:
        values = zip(detections.classes.tolist(), detections.boxes.tolist(), detections.scores.tolist(), strict=True)
        results: Results = [
            {"image_id": detections.image_id, "category_id": self._category_ids[number], "bbox": box, "score": score}
            for number, box, score in values
        ]
        for result, counts in zip(results, detections.masks or (), strict=False):
            result["segmentation"] = {"size": [*detections.size], "counts": counts}
        return results

    def _write(self, name: str, text: str) -> None:
        if self.output_dir is not None:
            replace_text(self.output_dir / name, text)


def write_metrics(path: Path, results: dict[str, dict[str, float]]) -> None:
    """Write the results of an evaluator as JSON, with null for nan."""
    finite = {
        group: {name: None if math.isnan(value) else value for name, value in metrics.items()}
        for group, metrics in results.items()
    }
    replace_text(path, json.dumps(finite, indent=2, ensure_ascii=False, allow_nan=False))


def worst_images(analysis: Analysis, dataset: Any, number: int = NUM_WORST) -> list[dict[str, Any]]:
    """The images that cost most AP50, the worst first.

    Args:
        analysis: of the detections in `dataset`.
        dataset: has the names of the files.
        number: of images at most.

    Returns:
        For each image `image_id`, `file_name`, `cost` (what its errors take from AP50, in points) and `errors` (the
        number of each kind that it has, at the thresholds of the classes).
    """
    counts = analysis.errors.counts_of_images(analysis.detections, analysis.objects)
    result = []
    for position in analysis.worst_images(number):
        record = dataset[position]
        result.append(
            {
                "image_id": int(record["image_id"]),
                "file_name": str(record["file_name"]),
                "cost": round(100 * float(analysis.costs[position]), 4),
                "errors": {kind: int(values[position]) for kind, values in counts.items() if values[position]},
            }
        )
    return result


def _to_numpy(tensor: Any, dtype: Any) -> np.ndarray:
    # NumPy has no bfloat16, so the conversion goes through float.
    tensor = tensor.detach().cpu()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy().astype(dtype)
