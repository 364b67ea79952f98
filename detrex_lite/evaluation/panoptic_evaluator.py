"""Panoptic quality of a model's segmentations, under the image and category ids of the data set."""

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
from .inputs import image_of
from .panoptic_files import MAX_ID, panoptic_annotation, write_segmentation
from .panoptic_quality import METRIC_NAMES, VOID, Segment, compare_segments, missed_segments, panoptic_metrics

logger = logging.getLogger(__name__)

GROUP = "panoptic_seg"
"""The name of the metrics, and of what models return."""


class _Result(NamedTuple):
    """What was made of one image."""

    image_id: int
    size: tuple[int, int]  # (height, width) in pixels
    num_segments: int
    counts: np.ndarray  # of `compare_segments`
    annotation: dict[str, Any] | None  # its entry in panoptic.json; None when nothing is written


class PanopticEvaluator:
    """Compares panoptic segmentations with annotated ones, image by image, in the process that has seen the image.

    Classes are those of the data set, things and stuff together, as `load_coco_panoptic` has them. Segments that it has
    left out, because their boxes are faulty, are void.

    Args:
        dataset: a `DetectionDataset` with panoptic segmentations. Without annotations only the predictions are written.
        output_dir: where predictions go in COCO's format, `panoptic.json` and the PNGs in `panoptic/`, and the metrics,
            `panoptic_metrics.json`; None writes nothing. Every process writes the PNGs of its images.

    Raises:
        ValueError: when the data set has annotations, but no panoptic ones.
    """

    def __init__(self, *, dataset: Any, output_dir: str | Path | None = None):
        if dataset.has_annotations and not isinstance(dataset.segmentations, PanopticFiles):
            raise ValueError(
                f"the data set {dataset.name!r} has no panoptic segmentations, which load_coco_panoptic reads, or "
                "load_dataset('coco_2017_val_panoptic')"
            )
        self.dataset = dataset
        self.output_dir = Path(os.path.expanduser(output_dir)) if output_dir else None
        self._positions = {int(image_id): index for index, image_id in enumerate(dataset.image_ids)}
        self._results: list[_Result] = []

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What `evaluate` will give, as group/name: "panoptic_seg/PQ". Empty without annotations."""
        if not self.dataset.has_annotations:
            return ()
        of_classes = (f"{name}-{one}" for one in self.dataset.class_names for name in ("PQ", "SQ", "RQ"))
        return tuple(f"{GROUP}/{name}" for name in (*METRIC_NAMES, *of_classes))

    def reset(self) -> None:
        """Forget all segmentations."""
        self._results = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Add the segmentations of one batch.

        Args:
            inputs: the model's inputs, of which `image_id` (and for messages `file_name`) is read.
            outputs: the model's outputs: `panoptic_seg`, a pair of the segment id of each pixel, an integer tensor
                (H, W) of the original image's size in which 0 is void, and a list of a dict for each segment: `id`,
                `category_id` (the class, 0..K-1) and, to be written, `score`.

        Raises:
            ValueError: when there are more or fewer outputs than inputs, for an image that the data set lacks, for an
                output without `panoptic_seg`, and for one whose size, ids or classes are wrong.
        """
        if len(inputs) != len(outputs):
            raise ValueError(f"the model returned {len(outputs)} outputs for {len(inputs)} inputs")
        for one_input, output in zip(inputs, outputs, strict=True):
            self._results.append(self._compared(one_input, output))

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Gather the counts of all processes, and compute the metrics.

        Every process must call this, and every process gets the result.

        Returns:
            `{"panoptic_seg": metrics}`, see `panoptic_metrics`. `{}` when the data set has no annotations.
        """
        gathered = distributed.gather_objects(self._results)
        metrics: dict[str, dict[str, float]] = {}
        if distributed.is_main_process():
            # Samplers that pad their shards to one length show some images twice; the first one counts.
            by_image: dict[int, _Result] = {}
            for one in (one for part in gathered for one in part):
                by_image.setdefault(one.image_id, one)
            metrics = self._evaluate_on_main(by_image)
        return distributed.broadcast_object(metrics)

    def _compared(self, one_input: dict[str, Any], output: dict[str, Any]) -> _Result:
        image_id, where = image_of(one_input, self.dataset, self._positions)
        if GROUP not in output:
            raise ValueError(
                f"{where}: the model's output has no {GROUP!r}, only {', '.join(output) or 'nothing'}: it is no "
                "panoptic model, or not set up as one"
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
            found = self._segments(infos)
            # Without annotations they are compared with themselves, which finds wrong ids all the same.
            truth_ids, truth = annotated if annotated is not None else (ids, found)
            counts = compare_segments(truth_ids, truth, ids, found, self.dataset.num_classes)
        except ValueError as error:
            raise ValueError(f"{where}: {GROUP} of the model: {error}") from None
        annotation = None
        if self.output_dir is not None:
            name = f"{image_id:012d}.png"
            write_segmentation(self.output_dir / "panoptic" / name, ids)
            annotation = panoptic_annotation(image_id, name, infos, ids, self.dataset.category_ids)
        return _Result(image_id, ids.shape, len(found), counts, annotation)

    def _annotated(self, image_id: int) -> tuple[np.ndarray, list[Segment]]:
        """The segment id of each pixel, and the segments, of an image of the data set."""
        record = self.dataset[self._positions[image_id]]
        columns = (record[name].tolist() for name in ("annotation_ids", "classes", "iscrowd"))
        segments = [Segment(*values) for values in zip(*columns, strict=True)]
        ids = record["segmentations"].label_map().numpy()
        return np.where(np.isin(ids, [one.id for one in segments]), ids, VOID), segments

    def _segments(self, infos: Any) -> list[Segment]:
        """The found segments, each with a class that there is."""
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
        for one in results.values():
            counts += one.counts
        missing = [index for image_id, index in self._positions.items() if image_id not in results]
        for index in missing:
            record = dataset[index]
            counts += missed_segments(record["classes"].numpy(), record["iscrowd"].numpy(), dataset.num_classes)
        if missing:
            logger.warning(
                "Only %d of %d images were processed; the segments of the others count as missed.",
                len(results),
                len(dataset),
            )
        metrics = {GROUP: panoptic_metrics(counts, dataset.class_names, dataset.is_thing)}
        logger.info(
            "Evaluated %d segments in %d images in %.1f s.",
            sum(one.num_segments for one in results.values()),
            len(results),
            time.perf_counter() - start,
        )
        if self.output_dir is not None:
            write_metrics(self.output_dir / "panoptic_metrics.json", metrics)
        return metrics

    def _write_predictions(self, results: list[_Result]) -> None:
        """A panoptic data set of its own, which can be read wherever an annotated one can."""
        if self.output_dir is None:
            return
        dataset = self.dataset
        names = (
            os.path.relpath(dataset.file_name(self._positions[one.image_id]), dataset.image_root) for one in results
        )
        categories = zip(dataset.category_ids, dataset.class_names, dataset.is_thing.tolist(), strict=True)
        content = {
            "images": [
                {"id": one.image_id, "file_name": name, "height": one.size[0], "width": one.size[1]}
                for one, name in zip(results, names, strict=True)
            ],
            "categories": [
                {"id": category_id, "name": name, "isthing": int(is_thing)}
                for category_id, name, is_thing in categories
            ],
            "annotations": [one.annotation for one in results],
        }
        replace_text(self.output_dir / "panoptic.json", json.dumps(content, allow_nan=False))
