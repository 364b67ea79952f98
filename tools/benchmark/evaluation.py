"""The time of COCO evaluation: during inference, and from the end of inference to the table."""

import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from detrex_lite.data import from_records
from detrex_lite.evaluation import CocoEvaluator, format_table
from detrex_lite.evaluation.backends import AUTO, choose_backend
from detrex_lite.structures import Boxes, Instances

from .errors import BenchmarkError, require_positive
from .machine import machine_facts
from .photographs import HEIGHT, NUM_CLASSES, WIDTH, generated_objects
from .stages import StagesReport
from .timing import Timing


def benchmark_evaluation(
    *, images: int = 5000, detections: int = 100, repeats: int = 1, backend: str = AUTO
) -> StagesReport:
    """Evaluate synthetic detections: shifted ground truth, and random boxes of the image's classes and of ten others.

    Args:
        images: number of images, of 640x480 pixels with about 7 objects.
        detections: number of detections in each image.
        repeats: number of rounds.
        backend: backend of `CocoEvaluator`.

    Raises:
        BenchmarkError: for a backend that is unknown or not installed, or a number below 1.
    """
    require_positive(images=images, detections=detections, repeats=repeats)
    try:
        backend = choose_backend(backend)
    except ValueError as error:
        raise BenchmarkError(str(error)) from error
    generator = np.random.default_rng(0)
    records = [{"file_name": f"{index}.jpg", **generated_objects(generator)} for index in range(images)]
    dataset = from_records(records, name="generated", class_names=[f"class {k}" for k in range(NUM_CLASSES)])
    batches = list(_batches(records, detections, generator))
    during, after = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(repeats):
            evaluator = CocoEvaluator(dataset=dataset, output_dir=folder, backend=backend)
            begin = time.perf_counter()
            for inputs, outputs in batches:
                evaluator.process(inputs, outputs)
            inferred = time.perf_counter()
            format_table(evaluator.evaluate())
            during.append(inferred - begin)
            after.append(time.perf_counter() - inferred)
    return StagesReport(
        title=f"COCO evaluation of {detections} detections in each of {images} images, by {evaluator.backend}",
        machine=machine_facts(torch.device("cpu")),
        settings={"images": images, "detections": detections, "repeats": repeats, "backend": evaluator.backend},
        timings={"while inference goes on": Timing(tuple(during)), "from its end to the table": Timing(tuple(after))},
        rates={"ms per image while inference goes on": 1000 * Timing(tuple(during)).median / images},
    )


def _batches(records: list[dict[str, Any]], detections: int, generator: np.random.Generator) -> Iterator[Any]:
    size = np.array([WIDTH, HEIGHT])
    for index, record in enumerate(records):
        num_moved = min(detections, len(record["boxes"]))
        num_random = detections - num_moved
        corner = generator.random((num_random, 2)) * 0.8 * size
        extent = (0.02 + 0.4 * generator.random((num_random, 2)) ** 2) * size
        moved = record["boxes"][:num_moved] + generator.normal(0, 4, (num_moved, 1))
        boxes = np.concatenate([moved, np.concatenate([corner, corner + extent], axis=1)])
        pool = np.concatenate([record["classes"], generator.integers(0, NUM_CLASSES, 10)])
        classes = np.concatenate([record["classes"][:num_moved], generator.choice(pool, num_random)])
        scores = np.concatenate([generator.random(num_moved), 0.5 * generator.random(num_random)])
        instances = Instances(
            (HEIGHT, WIDTH),
            pred_boxes=Boxes(torch.from_numpy(boxes).float()),
            scores=torch.from_numpy(scores).float(),
            pred_classes=torch.from_numpy(classes),
        )
        yield [{"image_id": index + 1, "file_name": record["file_name"]}], [{"instances": instances}]
