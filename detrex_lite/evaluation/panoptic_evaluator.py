"""Panoptic quality of a model's segmentations, with the image and category ids of the data set."""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import distributed
from ..checkpoint.files import replace_text
from ..data.segmentations import PanopticFiles
from .coco_evaluator import write_metrics
from .inputs import image_of, missing_images
from .panoptic_files import MAX_ID, panoptic_annotation, write_segmentation
from .panoptic_quality import METRIC_NAMES, VOID, Segment, compare_segments, missed_segments, panoptic_metrics

logger = logging.getLogger(__name__)

GROUP = "panoptic_seg"
"""The name of the group of metrics, and of the output of models."""


class _Result(NamedTuple):
    """The result of one image."""

    image_id: int
    size: tuple[int, int]  # (height, width) in pixels
    num_segments: int
    counts: np.ndarray  # result of `compare_segments`
    annotation: dict[str, Any] | None  # its entry in panoptic.json; None when nothing is written


class PanopticEvaluator:
    """Compares panoptic segmentations with annotated ones, image by image, in the process that ran the image.

    Classes are those of the data set, things and stuff together, as in `load_coco_panoptic`. Segments that it drops
    because their boxes are faulty are void.

    Args:
        dataset: a `DetectionDataset` with panoptic segmentations. Without annotations only the predictions are written.
        output_dir: folder for predictions in COCO's format, `panoptic.json` and the PNGs in `panoptic/`, and for the
            metrics, `panoptic_metrics.json`; None writes nothing. Every process writes the PNGs of its images.

    Raises:
        ValueError: when the data set has annotations, but no panoptic ones.
    """

    def __init__(self, *, dataset: Any, output_dir: str | Path | None = None):
        if dataset.has_annotations and not isinstance(dataset.segmentations, PanopticFiles):
            raise ValueError(
                f"the data set {dataset.name!r} has no panoptic segmentations: load it by load_coco_panoptic or "
                "load_dataset('coco_2017_val_panoptic')"
            )
        self.dataset = dataset
        self.output_dir = Path(os.path.expanduser(output_dir)) if output_dir else None
        self._positions = {int(image_id): index for index, image_id in enumerate(dataset.image_ids)}
        self._results: list[_Result] = []

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics that `evaluate` returns, as group/name: "panoptic_seg/PQ". Empty without annotations."""
        if not self.dataset.has_annotations:
            return ()
        of_classes = (f"{name}-{class_name}" for class_name in self.dataset.class_names for name in ("PQ", "SQ", "RQ"))
        return tuple(f"{GROUP}/{name}" for name in (*METRIC_NAMES, *of_classes))

    def reset(self) -> None:
        """Discard all segmentations."""
        self._results = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Add the segmentations of one batch.

        Args:
            inputs: the model's inputs, of which `image_id` is read (and `file_name` for messages).
            outputs: the model's outputs: `panoptic_seg`, a pair of the segment id of each pixel, an integer tensor
                (H, W) of the original image's size in which 0 is void, and a list with a dict for each segment: `id`,
                `category_id` (the class, 0..K-1) and, if it is written, `score`.

        Raises:
            ValueError: when the numbers of outputs and inputs differ, for an image that the data set does not have, for
                an output without `panoptic_seg`, and for wrong sizes, ids or classes.
        """
        if len(inputs) != len(outputs):
            raise ValueError(f"the model returned {len(outputs)} outputs for {len(inputs)} inputs")
        for one_input, output in zip(inputs, outputs, strict=True):
            self._results.append(self._compared(one_input, output))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Gather the counts of all processes, and compute the metrics.

        Every process must call this and gets the result.

        Returns:
            `{"panoptic_seg": metrics}`, see `panoptic_metrics`. `{}` when the data set has no annotations.
        """
        gathered = distributed.gather_objects(self._results)
        metrics: dict[str, dict[str, float]] = {}
        if distributed.is_main_process():
            # Samplers that pad their shards to equal length repeat some images; only the first result counts.
            by_image: dict[int, _Result] = {}
            for result in (result for part in gathered for result in part):
                by_image.setdefault(result.image_id, result)
            metrics = self._evaluate_on_main(by_image)
        return distributed.broadcast_object(metrics)

    def _compared(self, model_input: dict[str, Any], output: dict[str, Any]) -> _Result:
        image_id, where = image_of(model_input, self.dataset, self._positions)
        if GROUP not in output:
            raise ValueError(
                f"{where}: the model's output has no {GROUP!r}, only {', '.join(output) or 'nothing'}: it is not a "
                "panoptic model, or not configured as one"
            )
        segmentation, infos = output[GROUP]
        ids = segmentation.detach().cpu().numpy()
        annotated = self._annotated(image_id) if self.dataset.has_annotations else None
        try:
            if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or (ids < 0).any() or (ids > MAX_ID).any():
                raise ValueError(
                    f"segment ids must be an integer tensor (height, width) of values from 0 to {MAX_ID}, got "
                    f"{segmentation.dtype} {tuple(segmentation.shape)}"
                )
            predicted = self._segments(infos)
            # Without annotations, segments are compared with themselves, which still finds wrong ids.
            truth_ids, truth = annotated if annotated is not None else (ids, predicted)
            counts = compare_segments(truth_ids, truth, ids, predicted, self.dataset.num_classes)
        except ValueError as error:
            raise ValueError(f"{where}: {GROUP} of the model: {error}") from None
        annotation = None
        if self.output_dir is not None:
            name = f"{image_id:012d}.png"
            write_segmentation(self.output_dir / "panoptic" / name, ids)
            annotation = panoptic_annotation(image_id, name, infos, ids, self.dataset.category_ids)
        return _Result(image_id, ids.shape, len(predicted), counts, annotation)

    def _annotated(self, image_id: int) -> tuple[np.ndarray, list[Segment]]:
        """Return the segment id of each pixel, and the segments, of an image of the data set."""
        record = self.dataset[self._positions[image_id]]
        columns = (record[name].tolist() for name in ("annotation_ids", "classes", "iscrowd"))
        segments = [Segment(*values) for values in zip(*columns, strict=True)]
        ids = record["segmentations"].label_map().numpy()
        return np.where(np.isin(ids, [segment.id for segment in segments]), ids, VOID), segments

    def _segments(self, infos: Any) -> list[Segment]:
        """Convert the predicted segments and check that their classes exist."""
        segments, num_classes = [], self.dataset.num_classes
        for info in infos:
            missing = [key for key in ("id", "category_id") if key not in info]
            if missing:
                raise ValueError(f"a segment has no {missing[0]!r}; its keys are {', '.join(info)}")
            class_index = int(info["category_id"])
            if not 0 <= class_index < num_classes:
                raise ValueError(
                    f"segment {info['id']} is of class {class_index}, but the data set {self.dataset.name!r} has "
                    f"{num_classes} classes, 0..{num_classes - 1}"
                )
            segments.append(Segment(int(info["id"]), class_index))
        return segments

    def _evaluate_on_main(self, results: dict[int, _Result]) -> dict[str, dict[str, float]]:
        start = time.perf_counter()
        dataset = self.dataset
        self._write_predictions([results[image_id] for image_id in sorted(results)])
        if not dataset.has_annotations:
            where = f"predictions are in {self.output_dir}" if self.output_dir else "nothing is written"
            logger.warning("The data set %r has no annotations: no metrics; %s.", dataset.name, where)
            return {}
        counts = np.zeros((dataset.num_classes, 4))
        for result in results.values():
            counts += result.counts
        for index in missing_images(dataset, self._positions, results, "segments"):
            record = dataset[index]
            counts += missed_segments(record["classes"].numpy(), record["iscrowd"].numpy(), dataset.num_classes)
        metrics = {GROUP: panoptic_metrics(counts, dataset.class_names, dataset.is_thing)}
        logger.info(
            "Evaluated %d segments in %d images in %.1f s.",
            sum(result.num_segments for result in results.values()),
            len(results),
            time.perf_counter() - start,
        )
        if self.output_dir is not None:
            write_metrics(self.output_dir / "panoptic_metrics.json", metrics)
        return metrics

    def _write_predictions(self, results: list[_Result]) -> None:
        """Write a panoptic data set of the predictions, which can be read like an annotated one."""
        if self.output_dir is None:
            return
        dataset = self.dataset
        names = (
            os.path.relpath(dataset.file_name(self._positions[result.image_id]), dataset.image_root)
            for result in results
        )
        categories = zip(dataset.category_ids, dataset.class_names, dataset.is_thing.tolist(), strict=True)
        content = {
            "images": [
                {"id": result.image_id, "file_name": name, "height": result.size[0], "width": result.size[1]}
                for result, name in zip(results, names, strict=True)
            ],
            "categories": [
                {"id": category_id, "name": name, "isthing": int(is_thing)}
                for category_id, name, is_thing in categories
            ],
            "annotations": [result.annotation for result in results],
        }
        replace_text(self.output_dir / "panoptic.json", json.dumps(content, allow_nan=False))
