"""Data sets by name, in the folder layout that detectron2 documents."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import did_you_mean
from .coco import load_coco
from .dataset import DetectionDataset
from .faults import DatasetError
from .panoptic import load_coco_panoptic
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
_PANOPTIC = {f"coco_2017_{split}_panoptic": (f"panoptic_{split}2017", f"{split}2017") for split in ("train", "val")}
_PUBLISHED_SIZES = {"coco_2014_train": 82783, "coco_2017_train": 118287, "coco_2017_train_panoptic": 118287}
_VOC_SPLITS = {"2007": ("train", "val", "trainval", "test"), "2012": ("train", "val", "trainval")}
_VOC = {f"voc_{year}_{split}": (f"VOC{year}", split) for year, splits in _VOC_SPLITS.items() for split in splits}
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

_BUILT_IN = [*_COCO, *_PANOPTIC, *_VOC]

_LOADERS: dict[str, Callable[..., DetectionDataset]] = {
    "coco": load_coco,
    "coco_panoptic": load_coco_panoptic,
    "voc": load_voc,
}

_registered: dict[str, Callable[[], DetectionDataset]] = {}
_loaded: dict[str, DetectionDataset] = {}  # registered data sets; the built-in readers have caches


@dataclass(frozen=True)
class Location:
    """The location of a built-in data set: the reader (`coco`, `coco_panoptic` or `voc`) and its arguments."""

    reader: str
    arguments: dict[str, Any]


def dataset_root() -> tuple[str, str]:
    """Return the folder of data sets, from the first of `ROOT_VARIABLES` that is set, and the reason."""
    for variable in ROOT_VARIABLES:
        if os.environ.get(variable):
            return os.path.expanduser(os.environ[variable]), f"from {variable}"
    return DEFAULT_ROOT, f"as neither {' nor '.join(ROOT_VARIABLES)} is set"


def register_dataset(name: str, loader: Callable[[], DetectionDataset]) -> None:
    """Make `load_dataset(name)` return the result of `loader`; a later registration replaces an earlier one.

    `loader` is called once, when the data set is first loaded.

    Raises:
        DatasetError: when the name is that of a built-in data set.
    """
    if name in _BUILT_IN:
        raise DatasetError(f"{name!r} is a built-in data set: choose another name")
    _registered[name] = loader
    _loaded.pop(name, None)


def is_registered(name: str) -> bool:
    """Whether `name` was registered by `register_dataset`."""
    return name in _registered


def published_size(name: str) -> int | None:
    """Return the number of images of a built-in training set as published; None for other names."""
    return _PUBLISHED_SIZES.get(name)


def load_dataset(name: str, *, masks: bool = False) -> DetectionDataset:
    """Load a data set by name: `coco_2017_train`, `voc_2007_trainval`, or one registered by `register_dataset`.

    Built-in data sets are searched in the folder `DETREX_DATASETS`, else `DETECTRON2_DATASETS`, else
    `./datasets`, as `coco/annotations/instances_train2017.json` with `coco/train2017/`, or `VOC2007/`;
    `coco_2017_train_panoptic` as `coco/annotations/panoptic_train2017.json` with the PNG files in
    `coco/panoptic_train2017/`, or otherwise in `coco/annotations/panoptic_train2017/`.

    Args:
        name: name of the data set.
        masks: whether to read the masks of COCO's objects; panoptic data sets always have masks.

    Raises:
        DatasetError: when the name is unknown, its files do not exist, or it has no masks although `masks` is set.
    """
    if name in _registered:
        if name not in _loaded:
            _loaded[name] = _registered[name]()
        dataset = _loaded[name]
    else:
        location = locate(name)
        further = {"masks": masks} if location.reader == "coco" else {}
        dataset = _LOADERS[location.reader](**location.arguments, **further)
    if masks and dataset.has_annotations and dataset.segmentations is None:
        raise DatasetError(f"data set {name!r} has no masks: it was read without, or its annotations have boxes only")
    return dataset


def locate(name: str) -> Location:
    """Return the location of the built-in data set `name`.

    Raises:
        DatasetError: when the name is unknown, or its annotations do not exist.
    """
    if name not in _BUILT_IN:
        near = did_you_mean(name, [*_BUILT_IN, *_registered])
        raise DatasetError(f"there is no data set {name!r}{near} (register_dataset adds your own)")
    root, reason = dataset_root()
    if name in _COCO:
        annotations, images = (os.path.join(root, "coco", part) for part in _COCO[name])
        holder = "coco"
        location = Location("coco", {"annotations": annotations, "image_root": images, "name": name})
    elif name in _PANOPTIC:
        stem, images = _PANOPTIC[name]
        holder = "coco"
        annotations = os.path.join(root, holder, "annotations", f"{stem}.json")
        beside_annotations, in_holder = (
            os.path.join(root, holder, "annotations", stem),
            os.path.join(root, holder, stem),
        )
        arguments: dict[str, Any] = {
            "annotations": annotations,
            "image_root": os.path.join(root, holder, images),
            "panoptic_root": in_holder if os.path.isdir(in_holder) else beside_annotations,
            "name": name,
        }
        location = Location("coco_panoptic", arguments)
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
