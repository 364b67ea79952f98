"""Converts the data set of a folder to another layout.

No information is lost silently: content that a layout does not support raises an error before anything is written, and
changed numbers or names are reported in remarks.
"""

import csv
import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import few
from .check import by_kind
from .dataset import DetectionDataset
from .faults import DatasetError, FaultLog
from .image import read_image_size
from .layouts import FoundDataset

_BOX_TOLERANCE = 0.01  # in pixels, between an object's box and the box around its polygon


@dataclass(frozen=True)
class Item:
    """One image to write.

    Attributes:
        dataset: the data set that has the image.
        index: position of the image in the data set.
        name: path of the image to write, relative to the image folder of its split, with `/`.
    """

    dataset: DetectionDataset
    index: int
    name: str

    @property
    def record(self) -> dict[str, Any]:
        return self.dataset[self.index]

    @property
    def path(self) -> str:
        return self.dataset.file_name(self.index)


@dataclass
class Conversion:
    """The result of a conversion.

    Attributes:
        images: the number of images by split.
        remarks: one sentence for each difference from the source.
    """

    images: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def convert_dataset(
    found: FoundDataset, out: str | os.PathLike[str], to: str, *, masks: bool = False, link: bool = False
) -> Conversion:
    """Write the data set of a folder in another layout, with its images.

    Reading the result gives the same boxes, to the last digit of float32. As in training, boxes that cannot be used are
    left out, and boxes that extend beyond their image are clipped.

    Args:
        found: the result of `find_dataset`.
        out: the folder to write, which must be empty or not exist.
        to: `coco`, `yolo`, `voc` or `csv`.
        masks: also write polygons and run lengths. COCO supports both; YOLO supports objects of one polygon.
        link: create symbolic links to the images in place of copies.

    Raises:
        DatasetError: when the source cannot be read, or the layout does not support it. Nothing is written then.
    """
    if to not in _WRITERS:
        raise DatasetError(f"cannot convert to the layout {to!r}; choices: {', '.join(_WRITERS)}")
    out = Path(os.path.expanduser(out))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(f"{out} already exists and is not empty: give another folder")
    log = FaultLog()
    datasets = {split: found.read(split, masks=masks, log=log) for split in found.splits}
    result = Conversion({split: len(dataset) for split, dataset in datasets.items()})
    result.remarks += [
        f"{kind}: {len(faults)} (as in training, unusable boxes are left out, and boxes are clipped to their image)"
        for kind, faults in by_kind(log.faults).items()
    ]
    if found.has_masks and not masks:
        result.remarks.append("Objects have polygons or run lengths, which are not converted: masks=True does it")
    writer = _WRITERS[to]
    items = {split: list(_items(dataset, flat=to == "voc")) for split, dataset in datasets.items()}
    _require_distinct_names(items, to)
    for split, dataset in datasets.items():
        writer.check(dataset, items[split], result.remarks)
    result.remarks += _renumbered(datasets, to)
    for split, dataset in datasets.items():
        folder = writer.image_folder(out, split)
        for item in items[split]:
            _place_image(item.path, folder / item.name, link=link)
        writer.write(out, split, dataset, items[split])
    if to == "yolo":
        _write_data_yaml(out, datasets)
    return result


def _items(dataset: DetectionDataset, *, flat: bool) -> Iterator[Item]:
    for index in range(len(dataset)):
        parts = Path(os.path.relpath(dataset.file_name(index), dataset.image_root)).parts
        # YOLO finds labels by replacing the folder `images` of a path, which must be the only one of this name.
        parts = tuple(part for part in parts[:-1] if part not in ("..", "images")) + parts[-1:]
        yield Item(dataset, index, "/".join(parts[-1:] if flat else parts))


def _require_distinct_names(items: dict[str, list[Item]], to: str) -> None:
    """Raise an error if two images would have the same image file or the same annotation file."""
    seen: dict[str, str] = {}
    for split, members in items.items():
        for item in members:
            path = item.path
            if not os.path.isfile(path):
                raise DatasetError(f"image {path} does not exist")
            name = os.path.splitext(item.name)[0] if to in ("yolo", "voc") else item.name
            key = name if to == "voc" else f"{split}/{name}"
            if key in seen:
                raise DatasetError(f"{seen[key]} and {path} would both be called {key}: rename one of the two")
            seen[key] = path


def _place_image(source: str, target: Path, *, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        target.symlink_to(os.path.abspath(source))
    else:
        shutil.copyfile(source, target)


def _renumbered(datasets: dict[str, DetectionDataset], to: str) -> list[str]:
    """Return remarks about classes that have other numbers in the new layout, or are missing there."""
    dataset = next(iter(datasets.values()))
    ids, names = dataset.category_ids, dataset.class_names
    if to == "coco":
        return []
    remarks = []
    if to == "yolo":
        order = names
        numbers = {name: k for k, name in enumerate(names)}
    else:
        used = {names[k] for split_data in datasets.values() for k in np.unique(split_data.classes).tolist()}
        order = tuple(sorted(used))
        numbers = {name: k + 1 for k, name in enumerate(order)}
        if unused := [name for name in names if name not in used]:
            remarks.append(f"Classes without a box cannot be kept: {few(unused)}")
    changed = [
        f"{name} {before} -> {numbers[name]}" for before, name in zip(ids, names, strict=True) if name in numbers
    ]
    if any(numbers.get(name, before) != before for before, name in zip(ids, names, strict=True)):
        remarks.append(f"Category ids change: {few(changed)}")
    return remarks


def _number(value: float) -> int | float:
    """Return an int for an integral value, so that it is written without a decimal point."""
    return int(value) if value == int(value) else float(value)


def _objects(record: dict[str, Any]) -> Iterator[tuple[int, list[float], bool]]:
    """Yield the class, the box (xyxy in pixels) and whether it is a crowd, for each object."""
    yield from zip(record["classes"].tolist(), record["boxes"].tolist(), record["iscrowd"].tolist(), strict=True)


# COCO: annotations/instances_train.json, train/


def _check_nothing(dataset: DetectionDataset, items: list[Item], remarks: list[str]) -> None:
    pass


def _write_coco(out: Path, split: str, dataset: DetectionDataset, items: list[Item]) -> None:
    images, annotations = [], []
    for item in items:
        record = item.record
        size = {"height": record["height"], "width": record["width"]}
        images.append({"id": record["image_id"], "file_name": item.name, **size})
        columns = (record[key].tolist() for key in ("classes", "boxes", "iscrowd", "area", "annotation_ids"))
        for row, (k, (x0, y0, x1, y1), crowd, area, number) in enumerate(zip(*columns, strict=True)):
            entry: dict[str, Any] = {
                "id": number,
                "image_id": record["image_id"],
                "category_id": dataset.category_ids[k],
                "bbox": [_number(side) for side in (x0, y0, x1 - x0, y1 - y0)],
                "area": _number(area),
                "iscrowd": int(crowd),
            }
            if "segmentations" in record:
                entry["segmentation"] = _as_json(record["segmentations"][row])
            annotations.append(entry)
    names = zip(dataset.category_ids, dataset.class_names, strict=True)
    categories = [{"id": number, "name": name} for number, name in names]
    path = out / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content), encoding="utf-8")


def _as_json(segmentation: Any) -> Any:
    if isinstance(segmentation, dict):
        return {"size": segmentation["size"], "counts": segmentation["counts"].decode("ascii")}
    return [[_number(value) for value in polygon.tolist()] for polygon in segmentation]


# YOLO: data.yaml, images/train/, labels/train/


def _check_yolo(dataset: DetectionDataset, items: list[Item], remarks: list[str]) -> None:
    _refuse_crowds(dataset, "YOLO labels")
    changed_boxes = 0
    for item in items:
        record = item.record
        size = read_image_size(record["file_name"])
        if size != (record["height"], record["width"]):
            raise DatasetError(
                f"{record['file_name']} is {size[0]} high and {size[1]} wide, but its annotation says "
                f"{record['height']} high and {record['width']} wide: fractions of its size would be wrong"
            )
        for row, segmentation in enumerate(record.get("segmentations", ())):
            where = f"{record['file_name']}: annotation {int(record['annotation_ids'][row])}"
            if not isinstance(segmentation, list):
                raise DatasetError(f"{where} has run lengths, and YOLO labels hold polygons only")
            if len(segmentation) != 1:
                raise DatasetError(f"{where} has {len(segmentation)} polygons, and a line of YOLO labels holds one")
            points = segmentation[0].reshape(-1, 2)
            polygon_box = np.array([*points.min(0), *points.max(0)])
            changed_boxes += bool((np.abs(polygon_box - record["boxes"][row].numpy()) > _BOX_TOLERANCE).any())
    if changed_boxes:
        remarks.append(
            f"{changed_boxes} boxes of {dataset.name} become the boxes around their polygons, because YOLO labels with "
            "polygons have no separate boxes"
        )


def _write_yolo(out: Path, split: str, dataset: DetectionDataset, items: list[Item]) -> None:
    for item in items:
        record = item.record
        scale = np.array([record["width"], record["height"]], dtype=np.float64)
        lines = []
        for row, (k, box, _) in enumerate(_objects(record)):
            if "segmentations" in record:
                points = record["segmentations"][row][0].reshape(-1, 2) / scale
            else:
                corners = np.array(box).reshape(2, 2)
                points = np.stack([corners.mean(0), corners[1] - corners[0]]) / scale
            lines.append(" ".join([str(k), *(repr(float(value)) for value in points.reshape(-1))]))
        path = out / "labels" / split / f"{os.path.splitext(item.name)[0]}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_data_yaml(out: Path, datasets: dict[str, DetectionDataset]) -> None:
    names = next(iter(datasets.values())).class_names
    lines = [f"{split}: images/{split}" for split in datasets]
    lines += [f"nc: {len(names)}", "names:", *(f"  {k}: {json.dumps(name)}" for k, name in enumerate(names))]
    (out / "data.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _refuse_crowds(dataset: DetectionDataset, layout_label: str) -> None:
    crowds = int(dataset.iscrowd.sum())
    if crowds:
        raise DatasetError(
            f"{dataset.name} has {crowds} crowds or ignored objects, which {layout_label} cannot mark: they would "
            "become ordinary objects. Remove them first, or convert to coco or voc"
        )


# Pascal VOC: Annotations/, ImageSets/Main/train.txt, JPEGImages/


def _check_voc(dataset: DetectionDataset, items: list[Item], remarks: list[str]) -> None:
    _refuse_masks(dataset, "Pascal VOC files")
    if dataset.iscrowd.any():
        remarks.append(f"{int(dataset.iscrowd.sum())} crowds of {dataset.name} become objects marked difficult")
    _remark_on_areas(dataset, remarks)


def _write_voc(out: Path, split: str, dataset: DetectionDataset, items: list[Item]) -> None:
    for folder in ("Annotations", "ImageSets/Main"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    stems = [os.path.splitext(item.name)[0] for item in items]
    (out / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    for item, stem in zip(items, stems, strict=True):
        record, root = item.record, ElementTree.Element("annotation")
        _element(root, "folder", "JPEGImages")
        _element(root, "filename", item.name)
        size = ElementTree.SubElement(root, "size")
        for tag, value in (("width", record["width"]), ("height", record["height"]), ("depth", 3)):
            _element(size, tag, value)
        for k, box, crowd in _objects(record):
            node = ElementTree.SubElement(root, "object")
            _element(node, "name", dataset.class_names[k])
            _element(node, "difficult", int(crowd))
            corners = ElementTree.SubElement(node, "bndbox")
            for tag, side in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
                _element(corners, tag, _number(side))
        ElementTree.indent(root)
        path = out / "Annotations" / f"{stem}.xml"
        ElementTree.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _element(parent: ElementTree.Element, tag: str, value: object) -> None:
    ElementTree.SubElement(parent, tag).text = str(value)


def _refuse_masks(dataset: DetectionDataset, layout_label: str) -> None:
    if dataset.segmentations is not None:
        raise DatasetError(f"{layout_label} have boxes only: convert without masks, or to coco or yolo")


def _remark_on_areas(dataset: DetectionDataset, remarks: list[str]) -> None:
    sides = dataset.boxes[:, 2:] - dataset.boxes[:, :2]
    changed = int((~np.isclose(dataset.areas, sides.prod(axis=1), rtol=1e-4)).sum())
    if changed:
        remarks.append(
            f"{changed} objects of {dataset.name} have an area that differs from that of their box; it is lost"
        )


# CSV: train.csv, train/


def _check_csv(dataset: DetectionDataset, items: list[Item], remarks: list[str]) -> None:
    _refuse_masks(dataset, "CSV tables")
    _refuse_crowds(dataset, "CSV tables")
    _remark_on_areas(dataset, remarks)


def _write_csv(out: Path, split: str, dataset: DetectionDataset, items: list[Item]) -> None:
    with open(out / f"{split}.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "image_width", "image_height", "class", "xmin", "ymin", "xmax", "ymax"])
        for item in items:
            record = item.record
            image = [f"{split}/{item.name}", record["width"], record["height"]]
            rows = [
                [*image, dataset.class_names[k], *(_number(side) for side in box)] for k, box, _ in _objects(record)
            ]
            writer.writerows(rows or [[*image, "", "", "", "", ""]])


class _Writer(NamedTuple):
    """The functions that write one layout.

    Attributes:
        image_folder: returns the folder for the images of a split.
        check: raises a `DatasetError` for content that the layout does not support, and adds remarks.
        write: writes the annotations of a split.
    """

    image_folder: Callable[[Path, str], Path]
    check: Callable[[DetectionDataset, list[Item], list[str]], None]
    write: Callable[[Path, str, DetectionDataset, list[Item]], None]


_WRITERS = {
    "coco": _Writer(lambda out, split: out / split, _check_nothing, _write_coco),
    "yolo": _Writer(lambda out, split: out / "images" / split, _check_yolo, _write_yolo),
    "voc": _Writer(lambda out, split: out / "JPEGImages", _check_voc, _write_voc),
    "csv": _Writer(lambda out, split: out / split, _check_csv, _write_csv),
}
