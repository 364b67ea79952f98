"""Keeps `report.html` in the run's folder up to date, with sample detections from the evaluations."""

import logging
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ... import distributed
from ...analysis.queries import inspect_image, match_layers
from ...data import DatasetError, read_image
from ...metrics_file import METRICS_FILE
from ...modeling import Detector
from ...structures import Boxes, Instances
from ...visualization import SheetRow, ground_truth, write_decoder_page, write_error_page, write_report, write_samples
from ...visualization.images import to_pil
from ...visualization.report import ERROR_PAGE_FILE, MOST_BOXES
from ..loop.trainer import Hook, Trainer

logger = logging.getLogger(__name__)

NUM_SAMPLES = 6
NUM_WORST_PICTURES = 8


class Sample(NamedTuple):
    """An image as the model saw it, with its detections in coordinates of the original image, both on the CPU.

    Detections are `Instances`, or the `panoptic_seg` of a panoptic model.
    """

    image: Tensor
    height: int
    width: int
    detections: Any


class SampleKeeper:
    """Wraps an evaluator and keeps the outputs for a few images.

    These are the images whose ids have the smallest checksums, so that the choice depends neither on the order of the
    data set nor on the distribution of images over processes.

    Args:
        evaluator: the wrapped evaluator, with `reset`, `process` and `evaluate`.
        number: the number of images to keep.
    """

    def __init__(self, evaluator: Any, *, number: int = NUM_SAMPLES):
        self.evaluator = evaluator
        self.number = number
        self.samples: dict[int, Sample] = {}

    def reset(self) -> None:
        self.samples = {}
        self.evaluator.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        self.evaluator.process(inputs, outputs)
        for record, output in zip(inputs, outputs, strict=True):
            if "image_id" not in record:  # not every evaluator needs it
                continue
            image_id = int(record["image_id"])
            if len(self.samples) == self.number:
                last = max(self.samples, key=_checksum)
                if image_id in self.samples or _checksum(image_id) > _checksum(last):
                    continue
                del self.samples[last]
            height, width = (
                record.get("height", record["image"].shape[1]),
                record.get("width", record["image"].shape[2]),
            )
            image = record["image"].detach().cpu().clone()
            self.samples[image_id] = Sample(image, height, width, _kept(output, (height, width)))

    def evaluate(self) -> Any:
        return self.evaluator.evaluate()


def _kept(output: dict[str, Any], size: tuple[int, int]) -> Any:
    """Copies of the outputs that the report draws: a view of a batch would keep the whole batch in memory."""
    if "panoptic_seg" in output:
        ids, infos = output["panoptic_seg"]
        return ids.detach().cpu().clone(), infos
    instances = output["instances"]
    if instances.has("pred_masks"):  # the masks that are not drawn would take a hundred times the memory of the image
        instances = instances[instances.scores.argsort(descending=True, stable=True)[:MOST_BOXES]]
    copies = Instances(
        size,
        pred_boxes=Boxes(instances.pred_boxes.tensor.detach().float().cpu().clone()),
        scores=instances.scores.detach().float().cpu().clone(),
        pred_classes=instances.pred_classes.detach().cpu().clone(),
    )
    if instances.has("pred_masks"):
        copies.pred_masks = instances.pred_masks.detach().cpu().clone()
    return copies


class RunReport(Hook):
    """Writes the page after each evaluation and after the last step; it must follow the evaluation among the hooks.

    Args:
        output_dir: the run's folder.
        keeper: holds the detections of the last evaluation; None when there is no evaluation.
        dataset: the validation set, for the ground truth; None when it is not known.
        class_names: names by class index.
        model: the evaluated model, whose decoder is analysed; None skips the analysis.
    """

    def __init__(
        self,
        *,
        output_dir: Path,
        keeper: SampleKeeper | None,
        dataset: Any,
        class_names: Sequence[str] | None,
        model: nn.Module | None = None,
    ):
        self.model = model
        self.output_dir = output_dir
        self.keeper = keeper
        self.dataset = dataset
        self.class_names = class_names
        self._results: Any = None

    def before_train(self, trainer: Trainer) -> None:
        self._results = trainer.results

    def after_step(self, trainer: Trainer) -> None:
        was_evaluated = trainer.results is not self._results
        self._results = trainer.results
        if distributed.is_main_process() and (was_evaluated or trainer.iteration == trainer.max_iter):
            self._write(trainer.iteration)

    def _write(self, iteration: int) -> None:
        write_pages(
            self.output_dir,
            self.keeper,
            dataset=self.dataset,
            class_names=self.class_names,
            iteration=iteration,
            of=f"detected at iteration {iteration:,}",
            model=self.model,
        )


def write_pages(
    output_dir: Path,
    keeper: SampleKeeper | None,
    *,
    dataset: Any,
    class_names: Sequence[str] | None,
    of: str,
    iteration: int | None = None,
    model: nn.Module | None = None,
) -> Path | None:
    """Write `report.html` and the files that it includes. Errors are logged and do not end the run.

    Args:
        output_dir: the run's folder.
        keeper: holds the detections of the last evaluation; None when there is no evaluation.
        dataset: the data set of the evaluation; None when it is not known.
        class_names: names by class index.
        of: where the detections come from, such as "detected at iteration 1,000".
        iteration: the iteration of the weights; None when it is not known.
        model: the evaluated model, whose decoder is analysed in this process alone; None skips the analysis.

    Returns:
        The path of the page, or None when there is nothing to show or the page could not be written.
    """
    try:
        if keeper is not None and keeper.samples:
            rows = [sample_row(dataset, image_id, keeper.samples[image_id]) for image_id in sorted(keeper.samples)]
            write_samples(output_dir, rows, class_names=class_names, iteration=iteration)
        analyses = getattr(keeper.evaluator, "analyses", None) if keeper is not None else None
        if analyses and dataset is not None:
            write_error_page(output_dir, analyses, partial(_worst_images, dataset), of)
        if isinstance(model, Detector) and keeper is not None and keeper.samples and dataset is not None:
            try:
                _write_decoder_page(output_dir, model, keeper, dataset, class_names, of)
            except Exception:  # without support for this kind of detector, the page lacks this section
                logger.debug("The page about the decoder could not be written.", exc_info=True)
        if not any((output_dir / name).exists() for name in (METRICS_FILE, ERROR_PAGE_FILE)):
            return None
        return write_report(output_dir)
    except Exception:  # an error in a picture must not end the training
        logger.warning("report.html could not be written.", exc_info=True)
        return None


def _write_decoder_page(
    output_dir: Path, model: Detector, keeper: SampleKeeper, dataset: Any, class_names: Sequence[str] | None, of: str
) -> None:
    if not hasattr(getattr(getattr(model, "transformer", None), "decoder", None), "layers"):
        return
    images, records = [], []
    for image_id in sorted(keeper.samples):
        sample = keeper.samples[image_id]
        row = sample_row(dataset, image_id, sample)
        record = {"image": sample.image, "height": sample.height, "width": sample.width}
        images.append((row.caption, row.image, inspect_image(model, record)))
        if not isinstance(row.ground_truth, tuple):
            truth = Instances((sample.height, sample.width))  # boxes are divided by this size
            truth.gt_boxes, truth.gt_classes = row.ground_truth.gt_boxes, row.ground_truth.gt_classes
            records.append({**record, "instances": truth})
    needs_more = getattr(model.criterion, "needs_masks", False) or not records
    matches = np.zeros((1, 0), dtype=np.int64) if needs_more else match_layers(model, records)
    write_decoder_page(output_dir, images, matches, class_names, of)


def _worst_images(dataset: Any, analysis: Any) -> Iterator[tuple[int, str, Any]]:
    """(position, name, picture) of the images with the most errors, without images that cannot be read."""
    for position in analysis.worst_images(NUM_WORST_PICTURES):
        record = dataset[position]
        try:
            image = to_pil(read_image(record["file_name"]))
        except DatasetError:
            continue
        yield position, Path(record["file_name"]).name, image.resize((record["width"], record["height"]))


def sample_row(dataset: Any, image_id: int, sample: Sample) -> SheetRow:
    """A row of the sample sheet: a kept image with its annotations and detections."""
    # The model saw the image resized; boxes are in coordinates of the original image.
    image = to_pil(sample.image).resize((sample.width, sample.height))
    size = (sample.height, sample.width)
    if dataset is None:
        no_objects = Instances(size, gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64))
        return SheetRow(image, no_objects, sample.detections, f"image {image_id}")
    record = dataset[int(np.flatnonzero(np.asarray(dataset.image_ids) == image_id)[0])]
    return SheetRow(image, ground_truth(record), sample.detections, Path(record["file_name"]).name)


def _checksum(image_id: int) -> tuple[int, int]:
    return zlib.crc32(str(image_id).encode()), image_id
