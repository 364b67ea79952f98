"""Small data sets on disk for the tests of this folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 2, "name": "cat"}]


def write_image(path: Path, height: int = 40, width: int = 60, **save_options: Any) -> Path:
    """Write an RGB image whose pixels encode their position: red increases downwards, green to the right."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([y * 255 // height, x * 255 // width, np.full_like(x, 90)], axis=-1).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **save_options)
    return path


def image_entry(image_id: int, file_name: str | None = None, height: int = 40, width: int = 60) -> dict[str, Any]:
    return {"id": image_id, "file_name": file_name or f"{image_id}.png", "height": height, "width": width}


def box_entry(
    annotation_id: int, image_id: int, bbox: Any, category_id: int = 2, **extra_fields: Any
) -> dict[str, Any]:
    return {"id": annotation_id, "image_id": image_id, "category_id": category_id, "bbox": bbox, **extra_fields}


def write_coco(
    folder: Path,
    images: list[Any] | None = None,
    annotations: list[Any] | None = None,
    categories: list[Any] | None = None,
    **extra_keys: Any,
) -> tuple[Path, Path]:
    """Write a COCO file and an empty folder for its images; `annotations=None` omits the key."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    content = {
        "images": [image_entry(1)] if images is None else images,
        "categories": CATEGORIES if categories is None else categories,
        **({} if annotations is None else {"annotations": annotations}),
        **extra_keys,
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path, folder / "images"


def object_xml(name: str, box: tuple[Any, Any, Any, Any], difficult: int = 0) -> str:
    corners = "".join(
        f"<{tag}>{value}</{tag}>" for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def write_xml(
    folder: Path,
    stem: str,
    objects: list[str],
    file_name: str | None = None,
    size: tuple[int, int] = (40, 60),
) -> Path:
    """Write the VOC file of an image of `size` = (height, width)."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    path = folder / "annotations" / f"{stem}.xml"
    path.write_text(
        f"<annotation><filename>{file_name or stem + '.png'}</filename><size><width>{size[1]}</width>"
        f"<height>{size[0]}</height><depth>3</depth></size>{''.join(objects)}</annotation>"
    )
    return path


def assert_same_record(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Check that every value of two records is exactly equal."""
    assert first.keys() == second.keys()
    for key, value in first.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(value, second[key], rtol=0, atol=0)
        else:
            assert value == second[key], key


def write_same_content_twice(folder: Path) -> None:
    """Write four images (the last is empty) as COCO JSON and as VOC XML; one box has no area, another is clipped."""
    boxes = {
        "a": [("cat", (5, 6, 25, 30)), ("dog", (0, 0, 60, 40))],
        "b": [("dog", (10, 10, 10, 30)), ("dog", (50, 20, 66, 39))],
        "c": [("cat", (1, 2, 3, 4))],
        "d": [],
    }
    ids = {"cat": 1, "dog": 2}
    images, annotations = [], []
    for position, (stem, objects) in enumerate(boxes.items(), 1):
        write_image(folder / "images" / f"{stem}.png")
        write_xml(folder, stem, [object_xml(name, box) for name, box in objects])
        images.append(image_entry(position, f"{stem}.png"))
        for name, (x0, y0, x1, y1) in objects:
            annotations.append(
                box_entry(len(annotations) + 1, position, [x0, y0, x1 - x0, y1 - y0], category_id=ids[name])
            )
    write_coco(folder, images, annotations, [{"id": k, "name": name} for name, k in ids.items()])
    (folder / "split.txt").write_text("a\nb\nc\nd\n")
