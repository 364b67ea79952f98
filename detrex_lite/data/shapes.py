"""A generated data set of drawn shapes, for demonstrations and tests without photographs."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..structures import run_lengths
from .coco import load_coco
from .dataset import DetectionDataset
from .faults import DatasetError
from .panoptic import load_coco_panoptic

SHAPES = ("circle", "square", "triangle")

_PARAMETERS_FILE = "generation.json"
_SPLITS = ("train", "val")
_FOLDERS = {"annotations", *(f"{part}{split}" for part in ("images", "panoptic") for split in ("", "/train", "/val"))}
_PARAMETERS = {"drawing", "num_train", "num_val", "image_size", "max_objects", "empty_share", "seed"}
_DRAWING = 3  # increased when the same parameters give different images or annotations
_BACKGROUND = "background"  # the stuff class of panoptic annotations

_RADIUS_RANGE = (0.1, 0.23)  # of a shape, as a fraction of the image's side
_MIN_VISIBLE = 0.6  # fraction of each shape that must stay visible
_ANGLE_RANGE = (-0.3, 0.3)  # of a shape, in radians
_MIN_CONTRAST = 130.0  # distance of a shape's colour from the background's, out of 442
_PLACING_ATTEMPTS = 10


def generate_shapes(
    root: str | Path,
    *,
    num_train: int = 1200,
    num_val: int = 300,
    image_size: int = 96,
    max_objects: int = 4,
    empty_share: float = 0.05,
    seed: int = 0,
) -> Path:
    """Draw circles, squares and triangles of many colours and sizes, slightly rotated, and annotate them.

    Backgrounds are light and noisy, and shapes overlap; masks are exactly the visible pixels, and boxes enclose them
    tightly. The folder gets `images/train/`, `images/val/` (PNG), `annotations/train.json`, `annotations/val.json`
    (COCO format) and `annotations/panoptic_train.json`, `annotations/panoptic_val.json` with `panoptic/train/`,
    `panoptic/val/` (COCO panoptic format), in which the background is stuff.
    Image i of a split depends only on the seed and i. A folder that was generated with the same arguments is kept; one
    with other arguments is generated again, unless it contains a file that was not generated.

    Args:
        root: the folder to create.
        num_train, num_val: number of images of each split.
        image_size: side of the square images in pixels.
        max_objects: largest number of shapes in an image; images that are not empty have at least 1.
        empty_share: approximate fraction of images without shapes.
        seed: seed of all drawing, not negative.

    Returns:
        `root`.

    Raises:
        DatasetError: when the folder contains anything else.
        ValueError: when a number is out of range.
    """
    if min(num_train, num_val, max_objects) < 1 or image_size < 16 or seed < 0 or not 0 <= empty_share < 1:
        raise ValueError(
            "shapes need at least 1 image a split of at least 16 pixels, 1 object, a share of empty images "
            f"in [0, 1) and a seed from 0; got {num_train=}, {num_val=}, {image_size=}, {max_objects=}, "
            f"{empty_share=}, {seed=}"
        )
    root = Path(os.path.expanduser(root))
    parameters = {
        "drawing": _DRAWING,
        "num_train": num_train,
        "num_val": num_val,
        "image_size": image_size,
        "max_objects": max_objects,
        "empty_share": empty_share,
        "seed": seed,
    }
    held = _parameters_of(root)
    if held == parameters:
        return root
    _refuse_others(root, held)

    root.parent.mkdir(parents=True, exist_ok=True)
    # Generated in a temporary folder and renamed, so that `root` is always complete, whichever process creates it.
    made = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        for split, (name, count) in enumerate((("train", num_train), ("val", num_val))):
            _write_split(made, name, count, (seed, split), image_size, max_objects, empty_share)
        (made / _PARAMETERS_FILE).write_text(json.dumps(parameters, indent=1))
        _move_into_place(made, root, parameters)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return root


def _move_into_place(new: Path, root: Path, parameters: dict[str, Any]) -> None:
    """Rename `new` to `root`, unless another process has created the same shapes first."""
    old = new.with_name(f"{new.name}-old")
    try:
        held = _parameters_of(root)
        if held != parameters:
            _refuse_others(root, held)  # checked again, since drawing takes time
            if root.is_dir():
                root.rename(old)
            new.chmod(0o755)  # temporary folders are private
            new.rename(root)
    except OSError:
        if _parameters_of(root) != parameters:
            raise
    shutil.rmtree(old, ignore_errors=True)


def _refuse_others(root: Path, parameters: dict[str, Any] | None) -> None:
    """Raise DatasetError when `root` contains anything but files generated with these parameters."""
    other_file = min(_not_made(root, parameters), default=None)
    if other_file:
        raise DatasetError(f"{root} holds other files ({other_file}, ...) than generated shapes: choose another folder")


def load_shapes(root: str | Path, split: str, *, masks: bool = False) -> DetectionDataset:
    """Load the `train` or `val` split of the shapes at `root`, which are generated if there are none.

    Args:
        root: the folder.
        split: `train` or `val`.
        masks: whether to read the masks of the shapes.

    Raises:
        DatasetError: when the split is unknown, or the folder contains anything else.
    """
    root = _generated(root, split)
    annotations = root / "annotations" / f"{split}.json"
    return load_coco(annotations, root / "images" / split, name=f"shapes_{split}", masks=masks)


def load_shapes_panoptic(root: str | Path, split: str) -> DetectionDataset:
    """As `load_shapes`, with the background as an object of a fourth class, which is stuff."""
    root = _generated(root, split)
    annotations = root / "annotations" / f"panoptic_{split}.json"
    return load_coco_panoptic(
        annotations, root / "images" / split, root / "panoptic" / split, name=f"shapes_{split}_panoptic"
    )


def _generated(root: str | Path, split: str) -> Path:
    """Return the folder; it is generated if there is none, or if an earlier version generated it."""
    root = Path(os.path.expanduser(root))
    if split not in _SPLITS:
        raise DatasetError(f"shapes have the splits train and val, not {split!r}")
    held = _parameters_of(root)
    if held is None:
        generate_shapes(root)
    elif held["drawing"] != _DRAWING:
        generate_shapes(root, **{name: value for name, value in held.items() if name != "drawing"})
    return root


def _parameters_of(root: Path) -> dict[str, Any] | None:
    """Return the parameters that a folder was generated with; None if it was not generated."""
    try:
        content = json.loads((root / _PARAMETERS_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or set(content) != _PARAMETERS:
        return None  # a file of another program
    return content if all(type(content[key]) is int for key in ("num_train", "num_val")) else None


def _not_made(root: Path, parameters: dict[str, Any] | None) -> Iterator[str]:
    """Iterate over files in a generated folder that `parameters` do not explain; links are not followed."""
    for folder, folders, files in os.walk(root):
        for name in (*files, *folders):
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            is_folder = name in folders and not path.is_symlink()
            if parameters is None or not (relative in _FOLDERS if is_folder else _is_made(relative, parameters)):
                yield relative


def _is_made(file: str, parameters: dict[str, Any]) -> bool:
    """Whether `generate_shapes` writes this file, relative to its folder, with these parameters."""
    image = re.fullmatch(r"(images|panoptic)/(train|val)/(\d{6,12})\.png", file)
    if image is None:
        return file == _PARAMETERS_FILE or file in (
            f"annotations/{kind}{split}.json" for kind in ("", "panoptic_") for split in _SPLITS
        )
    number = int(image[3])
    return 1 <= number <= parameters[f"num_{image[2]}"] and file.endswith(f"/{_image_name(number - 1)}")


def _image_name(index: int) -> str:
    return f"{index + 1:06d}.png"


def _write_split(
    root: Path,
    name: str,
    count: int,
    seed: tuple[int, int],
    image_size: int,
    max_objects: int,
    empty_share: float,
) -> None:
    for folder in ("images", "panoptic"):
        (root / folder / name).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    for index in range(count):
        rng = np.random.default_rng((*seed, index))
        objects = 0 if rng.random() < empty_share else int(rng.integers(1, max_objects + 1))
        pixels, shapes = draw_shapes(rng, image_size, objects)
        file_name = _image_name(index)
        Image.fromarray(pixels).save(root / "images" / name / file_name, compress_level=1)
        images.append({"id": index + 1, "file_name": file_name, "height": image_size, "width": image_size})
        masks = np.array([visible for _, visible in shapes]).reshape(-1, image_size, image_size)
        segmentations = run_lengths(torch.from_numpy(masks).bool())
        for (class_index, visible), segmentation in zip(shapes, segmentations, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": class_index + 1,
                    "bbox": _tight_box(visible),
                    "area": int(visible.sum()),
                    "iscrowd": 0,
                    "segmentation": segmentation,
                }
            )
        background = np.logical_not(masks.any(axis=0))
        segments: list[tuple[int, np.ndarray]]
        segments = [*shapes, (len(SHAPES), background)] if background.any() else shapes
        panoptic.append({"image_id": index + 1, "file_name": file_name, "segments_info": _segments_info(segments)})
        labels = np.zeros((image_size, image_size), dtype=np.int32)
        for number, (_, visible) in enumerate(segments, 1):
            labels[visible] = number
        colours = np.stack([labels, labels >> 8, labels >> 16], axis=-1).astype(np.uint8)
        Image.fromarray(colours).save(root / "panoptic" / name / file_name, compress_level=1)
    categories: list[dict[str, Any]] = [{"id": k + 1, "name": shape} for k, shape in enumerate(SHAPES)]
    (root / "annotations").mkdir(exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"{name}.json").write_text(json.dumps(content))
    categories = [{**category, "isthing": 1} for category in categories]
    categories.append({"id": len(SHAPES) + 1, "name": _BACKGROUND, "isthing": 0})
    content = {"images": images, "annotations": panoptic, "categories": categories}
    (root / "annotations" / f"panoptic_{name}.json").write_text(json.dumps(content))


def _segments_info(segments: list[tuple[int, np.ndarray]]) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "category_id": class_index + 1,
            "bbox": _tight_box(visible),
            "area": int(visible.sum()),
            "iscrowd": 0,
        }
        for number, (class_index, visible) in enumerate(segments, 1)
    ]


def draw_shapes(
    rng: np.random.Generator, image_size: int, objects: int
) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """Draw one picture.

    Args:
        rng: random number generator of all choices.
        image_size: H = W in pixels.
        objects: number of shapes to draw; fewer if there is not enough space.

    Returns:
        (H, W, 3) uint8 RGB, and for each shape its class and the (H, W) bool mask of its visible pixels.
    """
    y, x = np.mgrid[:image_size, :image_size] + 0.5
    base = rng.uniform(200, 240, size=3)
    waves = rng.uniform(-0.15, 0.15, size=(2, 3)), rng.uniform(0, 2 * np.pi, size=3)
    picture = base + 10 * np.sin(x[..., None] * waves[0][0] + y[..., None] * waves[0][1] + waves[1])

    shapes: list[tuple[int, np.ndarray, int]] = []  # class, visible mask, drawn area
    for _ in range(objects):
        class_index = int(rng.integers(len(SHAPES)))
        for _ in range(_PLACING_ATTEMPTS):
            mask, area = _draw_mask(rng, SHAPES[class_index], x, y, image_size)
            remaining = [(visible & ~mask).sum() / drawn for _, visible, drawn in shapes]
            if mask.sum() >= _MIN_VISIBLE * area and all(share >= _MIN_VISIBLE for share in remaining):
                picture[mask] = _contrasting_colour(rng, base)
                shapes = [(k, visible & ~mask, drawn) for k, visible, drawn in shapes]
                shapes.append((class_index, mask, int(area)))
                break
    picture += rng.uniform(2, 8) * rng.standard_normal(picture.shape, dtype=np.float32)
    return picture.clip(0, 255).astype(np.uint8), [(k, visible) for k, visible, _ in shapes]


def _draw_mask(
    rng: np.random.Generator, shape: str, x: np.ndarray, y: np.ndarray, image_size: int
) -> tuple[np.ndarray, float]:
    """Draw the (H, W) bool mask of one shape at a random position, size and angle; also returns its uncut area."""
    radius = rng.uniform(*_RADIUS_RANGE) * image_size
    centre_x, centre_y = rng.uniform(0.12, 0.88, size=2) * image_size
    angle = rng.uniform(*_ANGLE_RANGE)
    u = (x - centre_x) * np.cos(angle) + (y - centre_y) * np.sin(angle)
    v = (y - centre_y) * np.cos(angle) - (x - centre_x) * np.sin(angle)
    if shape == "circle":
        return u**2 + v**2 <= radius**2, np.pi * radius**2
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) <= 0.9 * radius, (1.8 * radius) ** 2
    # An equilateral triangle around a circle of radius `inner`: the intersection of three half-planes that touch the
    # circle.
    inner = 0.7 * radius
    edges = [u * np.cos(turn) + v * np.sin(turn) for turn in (0, 2 * np.pi / 3, 4 * np.pi / 3)]
    return np.max(edges, axis=0) <= inner, 3 * np.sqrt(3) * inner**2


def _contrasting_colour(rng: np.random.Generator, background: np.ndarray) -> np.ndarray:
    while True:  # more than half of all colours are this far from any background
        colour = rng.uniform(0, 255, size=3)
        if np.linalg.norm(colour - background) > _MIN_CONTRAST:
            return colour


def _tight_box(mask: np.ndarray) -> list[int]:
    """Compute COCO's x, y, width, height of the True pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x0, y0, x1, y1 = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return [int(side) for side in (x0, y0, x1 - x0, y1 - y0)]
