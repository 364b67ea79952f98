"""Synthetic photographs and objects of the size of COCO's, for measurements without a data set."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from detrex_lite.data import DetectionDataset, from_records

from .building import FEWEST_OBJECTS, MOST_OBJECTS

WIDTH, HEIGHT = 640, 480
NUM_CLASSES = 80
_QUALITY = 85  # with the noise below, files have about 110 KiB; COCO's have 160 KiB


def generated_photographs(folder: Path, number: int, *, seed: int = 0) -> DetectionDataset:
    """Write `number` JPEG files of 640x480 pixels into `folder`: smooth colours with the noise of a camera."""
    generator = np.random.default_rng(seed)
    records = []
    for index in range(number):
        coarse = generator.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)
        noise = generator.integers(-25, 26, smooth.shape, dtype=np.int16)
        path = folder / f"{index:06d}.jpg"
        Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).save(path, quality=_QUALITY)
        records.append({"file_name": str(path), **generated_objects(generator)})
    return from_records(records, name="generated", class_names=[f"class {k}" for k in range(NUM_CLASSES)])


def generated_objects(generator: np.random.Generator) -> dict[str, Any]:
    """A record's `height`, `width`, `boxes` (xyxy in pixels), `classes` and `iscrowd`; about 7 objects."""
    number = int(generator.integers(FEWEST_OBJECTS, MOST_OBJECTS + 1))
    size = np.array([WIDTH, HEIGHT])
    # Most objects are small, as in COCO.
    extent = (0.02 + 0.6 * generator.random((number, 2)) ** 2) * size
    corner = generator.random((number, 2)) * (size - extent)
    return {
        "height": HEIGHT,
        "width": WIDTH,
        "boxes": np.concatenate([corner, corner + extent], axis=1),
        "classes": generator.integers(0, NUM_CLASSES, number),
        "iscrowd": generator.random(number) < 0.01,
    }
