"""Data sets by name, in the folder layout that detectron2 documents."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import did_you_mean
from .coco import load_coco
from .dataset import DetectionDataset
from .faults import DatasetError
from .voc import load_voc

ROOT_VARIABLES = ("DETREX_DATASETS", "DETECTRON2_DATASETS")
DEFAULT_ROOT = "datasets"

_COCO = {
    "coco_2014_train": ("annotations/instances_train2014.json", "train2014"),
    "coco_2014_val": ("annotations/instances_val2014.json", "val2014"),
    "coco_2017_train": ("annotations/instances_train2017.json", "train2017"),
    "coco_2017_val": ("annotations/instances_val2017.json", "val2017"),
    "coco_2017_test": ("annotations/image_info_test2017.json", "test2017"),
    "coco_2017_test-dev": ("annotations/image_info_test-dev2017.json", "test2017"),
}
_PUBLISHED_SIZES = {"coco_2014_train": 82783, "coco_2017_train": 118287}
_VOC_SPLITS = {"2007": ("train", "val", "trainval", "test"), "2012": ("train", "val", "trainval")}
_VOC = {f"voc_{year}_{split}": (f"VOC{year}", split) for year, splits in _VOC_SPLITS.items() for split in splits}
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

_registered: dict[str, Callable[[], DetectionDataset]] = {}
_loaded: dict[str, DetectionDataset] = {}  # of the registered ones; the built-in readers have caches


@dataclass(frozen=True)
class Location:
    """Where a built-in data set lies: the reader (`coco` or `voc`) and its arguments."""

    reader: str
    arguments: dict[str, Any]


def dataset_root() -> tuple[str, str]:
    """The folder of data sets, from the first of `ROOT_VARIABLES` that is set, and what says so."""
    for variable in ROOT_VARIABLES:
        if os.environ.get(variable):
            return os.path.expanduser(os.environ[variable]), f"from {variable}"
    return DEFAULT_ROOT, f"as neither {' nor '.join(ROOT_VARIABLES)} is set"


def register_dataset(name: str, loader: Callable[[], DetectionDataset]) -> None:
    """Make `load_dataset(name)` give what `loader` returns; a later registration replaces an earlier one.

    `loader` is called once, when the data set is first loaded.

    Raises:
        DatasetError: when the name is that of a built-in data set.
    """
    if name in _COCO or name in _VOC:
        raise DatasetError(f"{name!r} is a built-in data set: choose another name")
    _registered[name] = loader
    _loaded.pop(name, None)


def is_registered(name: str) -> bool:
    """Whether `name` was given to `register_dataset`."""
    return name in _registered


def published_size(name: str) -> int | None:
    """The number of images that a built-in training set was published with; None for other names."""
    return _PUBLISHED_SIZES.get(name)


def load_dataset(name: str) -> DetectionDataset:
    """A data set by name: `coco_2017_train`, `voc_2007_trainval`, or one's own by `register_dataset`.

    Built-in data sets are looked for in the folder `DETREX_DATASETS`, else `DETECTRON2_DATASETS`, else
    `./datasets`, as `coco/annotations/instances_train2017.json` with `coco/train2017/`, or `VOC2007/`.

    Raises:
        DatasetError: when the name is unknown, or its files are not there.
    """
    if name in _registered:
        if name not in _loaded:
            _loaded[name] = _registered[name]()
        return _loaded[name]
    location = locate(name)
    loader = load_coco if location.reader == "coco" else load_voc
    return loader(**location.arguments)


def locate(name: str) -> Location:
    """Where the built-in data set `name` lies.

    Raises:
        DatasetError: when the name is unknown, or its annotations are not there.
    """
    if name not in _COCO and name not in _VOC:
        near = did_you_mean(name, [*_COCO, *_VOC, *_registered])
        raise DatasetError(f"there is no data set {name!r}{near} (register_dataset adds your own)")
    root, reason = dataset_root()
    if name in _COCO:
        annotations, images = (os.path.join(root, "coco", part) for part in _COCO[name])
        holder = "coco"
        location = Location("coco", {"annotations": annotations, "image_root": images, "name": name})
    else:
        holder, split = _VOC[name]
        annotations = os.path.join(root, holder, "Annotations")
        arguments = {
            "annotation_dir": annotations,
            "image_dir": os.path.join(root, holder, "JPEGImages"),
            "split_file": os.path.join(root, holder, "ImageSets", "Main", f"{split}.txt"),
            "class_names": VOC_CLASSES,
            "name": name,
            "one_based": True,
        }
        location = Location("voc", arguments)
    if not os.path.exists(annotations):
        raise DatasetError(
            f"data set {name!r} is not there: {os.path.abspath(annotations)} does not exist. Looked in the "
            f"folder {root!r}, {reason}; set {ROOT_VARIABLES[0]} to the folder that holds {holder}/"
        )
    return location
