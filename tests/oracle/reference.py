"""Stored results of other implementations, with their weights and inputs; README.md has the rules."""

import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detrex_lite.structures import Boxes, Instances

DATA = Path(__file__).parent / "data"

# Names of matrices that are lookup tables; they are not divided by the square root of their columns.
EMBEDDINGS = re.compile("query_embed|refpoint_embed|tgt_embed|pattern|label_enc|level_embed|query_pos")

# COCO's ids of its 80 classes.
COCO_IDS = [index for index in range(1, 91) if index not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


@dataclass(frozen=True)
class ImageResult:
    """The results of the reference for one image in evaluation.

    Attributes:
        scores, boxes, classes: (D,), (D, 4) absolute xyxy, and (D,) of the best detections, best first.
        last_logits, last_boxes: (Q, K) and (Q, 4) cxcywh in 0..1 of the last decoder layer; K is reduced to COCO's 80
            classes if the reference has a column for each id.
    """

    scores: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    last_logits: np.ndarray
    last_boxes: np.ndarray


@dataclass(frozen=True)
class Reference:
    """One case: a model of another implementation, and its results.

    Attributes:
        name: name of the file.
        repository, commit: of the implementation.
        image_sizes: (height, width) of each image.
        num_classes: number of classes, counted from 0.
        coco_ids: whether the implementation's labels are COCO's ids, 0 to 90.
        resnet_depth: 18 or 50.
        num_detections: number of detections of an image; the best 60 of them are stored.
        shapes: maps names in its state dict to shapes.
        shared: maps names to the first name, in alphabetical order, of the same tensor.
        unused_rows: maps class heads to rows of ids that no class has.
        losses: maps names to weighted losses of one batch of all images.
        gradient_norms: maps names of parameters to gradient norms of the sum of the losses, None if frozen.
        results: results for each image in evaluation.
    """

    name: str
    repository: str
    commit: str
    image_sizes: list[tuple[int, int]]
    num_classes: int
    coco_ids: bool
    resnet_depth: int
    num_detections: int
    shapes: dict[str, list[int]]
    shared: dict[str, str]
    unused_rows: dict[str, list[int]]
    losses: dict[str, float]
    gradient_norms: dict[str, float | None]
    results: list[ImageResult]

    @classmethod
    def read(cls, name: str) -> "Reference":
        """Read the case that is stored under `name`."""
        with np.load(DATA / f"{name}.npz") as stored:
            facts = json.loads(bytes(stored["facts"]))
            fields = ImageResult.__dataclass_fields__
            results = [
                ImageResult(**{field: stored[f"{field}{number}"] for field in fields})
                for number in range(len(facts["image_sizes"]))
            ]
        return cls(name=name, results=results, **facts)

    def state_dict(self) -> dict[str, Tensor]:
        """Create the checkpoint of the reference, in float64."""
        return {name: self._weight(self.shared.get(name, name), shape) for name, shape in self.shapes.items()}

    def _weight(self, name: str, shape: list[int]) -> Tensor:
        module, _, leaf = name.rpartition(".")
        weight = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)
        if len(shape) > 1:
            if not EMBEDDINGS.search(name):
                weight /= np.sqrt(np.prod(shape[1:]))
        elif leaf == "running_var":
            weight = 1 + 0.1 * np.abs(weight)
        else:
            weight = (leaf == "weight") + 0.1 * weight
        if module in self.unused_rows:
            weight[self.unused_rows[module]] = 0.0 if leaf == "weight" else -1e4
        return torch.from_numpy(weight)

    def evaluation_input(self, number: int) -> dict[str, Any]:
        """Return image `number` in detectron2's format, with a frame of twice its size."""
        height, width = self.image_sizes[number]
        return {"image": _image(height, width, seed=10 + number), "height": 2 * height, "width": 2 * width}

    def training_batch(self) -> list[dict[str, Any]]:
        """Return all images and their objects in detectron2's format."""
        return [
            {
                "image": _image(*size, seed=10 + number),
                "instances": _objects(*size, count=3 + 2 * number, seed=20 + number, num_classes=self.num_classes),
            }
            for number, size in enumerate(self.image_sizes)
        ]


def _image(height: int, width: int, seed: int) -> Tensor:
    """Generate (3, height, width) integers in 0..255: gradients and waves with noise."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([255 * x / width, 255 * y / height, 127 + 127 * np.sin(x / 17) * np.cos(y / 23)])
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal((3, height, width))
    return torch.from_numpy(np.rint(smooth + 20 * noise).clip(0, 255))


def _objects(height: int, width: int, count: int, seed: int, num_classes: int) -> Instances:
    random = np.random.Generator(np.random.PCG64(seed))
    centers, sides = random.uniform(0.25, 0.75, (count, 2)), random.uniform(0.1, 0.45, (count, 2))
    boxes = np.hstack([centers - sides / 2, centers + sides / 2]) * [width, height, width, height]
    labels = torch.from_numpy(random.integers(0, num_classes, count))
    return Instances((height, width), gt_boxes=Boxes(torch.from_numpy(boxes)), gt_classes=labels)
