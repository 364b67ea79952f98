"""One small data set written in several layouts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..samples import object_xml, write_xml

CLASSES = ("cat", "dog")
# Objects by image: class, and x0, y0, x1, y1 in pixels of images 40 high and 60 wide.
OBJECTS: dict[str, list[tuple[str, tuple[float, float, float, float]]]] = {
    "a": [("cat", (5, 6, 25, 30)), ("dog", (0, 0, 60, 40))],
    "b": [("dog", (10, 10, 30.5, 30))],
    "c": [],
    "d": [("cat", (1, 2, 3, 4))],
}
SPLITS = {"train": ("a", "b"), "valid": ("c", "d")}


def coco_content(stems: Any = tuple(OBJECTS), categories: Any = None, **extra_fields: Any) -> dict[str, Any]:
    """The content of a COCO file of some of the images, with the category ids 1 and 2."""
    images, annotations = [], []
    for stem in stems:
        images.append({"id": len(images) + 1, "file_name": f"{stem}.png", "height": 40, "width": 60})
        for name, (x0, y0, x1, y1) in OBJECTS[stem]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": CLASSES.index(name) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    **extra_fields,
                }
            )
    categories = categories or [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_images(folder: Path, stems: Any = tuple(OBJECTS)) -> None:
    """Write images of random pixels, each different."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        pixels = np.random.default_rng(list(OBJECTS).index(stem)).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{stem}.png")


def roboflow(root: Path) -> Path:
    """Write COCO files like Roboflow, with a category of id 0 that is the supercategory of all classes."""
    parent_category = [{"id": 0, "name": "animals", "supercategory": "none"}]
    categories = parent_category + [
        {"id": k + 1, "name": name, "supercategory": "animals"} for k, name in enumerate(CLASSES)
    ]
    for split, stems in SPLITS.items():
        write_json(root / split / "_annotations.coco.json", coco_content(stems, categories))
        write_images(root / split, stems)
    return root


def yolo_line(name: str, box: Any) -> str:
    x0, y0, x1, y1 = box
    values = ((x0 + x1) / 2 / 60, (y0 + y1) / 2 / 40, (x1 - x0) / 60, (y1 - y0) / 40)
    return " ".join(map(str, (CLASSES.index(name), *values)))


def yolo(root: Path, yaml: str | None = None) -> Path:
    """Write YOLO labels like Ultralytics: images/train and labels/train, without label files for empty images."""
    for split, stems in SPLITS.items():
        write_images(root / "images" / split, stems)
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        for stem in stems:
            if OBJECTS[stem]:
                lines = [yolo_line(name, box) for name, box in OBJECTS[stem]]
                (root / "labels" / split / f"{stem}.txt").write_text("\n".join(lines) + "\n")
    (root / "data.yaml").write_text(yaml or "train: images/train\nval: images/valid\nnames: [cat, dog]\n")
    return root


def voc(root: Path) -> Path:
    """Write the folders of the VOC data sets, with lists of splits."""
    for stem, objects in OBJECTS.items():
        write_xml(root, stem, [object_xml(name, box) for name, box in objects])
    (root / "annotations").rename(root / "Annotations")
    (root / "images").rmdir()
    write_images(root / "JPEGImages")
    (root / "ImageSets/Main").mkdir(parents=True)
    for split, stems in SPLITS.items():
        name = {"valid": "val"}.get(split, split)
        (root / "ImageSets/Main" / f"{name}.txt").write_text("\n".join(stems) + "\n")
    return root


def csv(root: Path) -> Path:
    """Write CSV files like Roboflow: a table next to the images of each split."""
    for split, stems in SPLITS.items():
        write_images(root / split, stems)
        lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
        for stem in stems:
            lines += [f"{stem}.png,60,40,{name},{','.join(map(str, box))}" for name, box in OBJECTS[stem]]
            if not OBJECTS[stem]:
                lines.append(f"{stem}.png,60,40,,,,,")
        (root / split / "_annotations.csv").write_text("\n".join(lines) + "\n")
    return root
