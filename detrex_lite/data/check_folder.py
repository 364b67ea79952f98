"""Checks the data set in a folder: lists the faults of all its splits, and remarks for users."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ..errors import printable_lines
from .check import Report, check_dataset, image_faults, listed, summary
from .dataset import DetectionDataset, select_images
from .faults import DatasetError, Fault
from .layouts import FoundDataset, find_dataset
from .layouts.tree import Tree

_BLOCK = 2**20  # bytes that are read at a time


@dataclass
class FolderReport:
    """The result of the check of a folder.

    Attributes:
        found: the data set; None when the folder has none.
        reports: split -> result of its check; `all` if the split into training and validation is drawn at random.
        faults: faults across splits: images that several splits have, and classes that the training set lacks.
        remarks: sentences about properties that are not faults, but may not be intended.
    """

    found: FoundDataset | None = None
    reports: dict[str, Report] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def all_faults(self) -> list[Fault]:
        """The faults of each split, followed by the faults across splits."""
        return [*(fault for report in self.reports.values() for fault in report.faults), *self.faults]

    def __str__(self) -> str:
        lines = [] if self.found is None else [self.found.describe(), ""]
        for report in self.reports.values():
            if report.dataset is not None:
                lines += [*summary(report.dataset), ""]
        lines += [f"note: {remark}" for remark in self.remarks]
        return printable_lines("\n".join([*lines, *([""] if self.remarks else []), *listed(self.all_faults)]))


def check_folder(
    folder: str | os.PathLike[str],
    *,
    decode: bool = True,
    masks: bool = False,
    seed: int = 0,
    val_share: float = 0.2,
    layout: str | None = None,
) -> FolderReport:
    """Find the data set in a folder, read all its splits and list all faults.

    Args:
        folder, seed, val_share, layout: see `find_dataset`.
        decode: decode every image; otherwise only headers are read.
        masks: also check polygons and run lengths.
    """
    try:
        found = find_dataset(folder, seed=seed, val_share=val_share, layout=layout)
    except DatasetError as error:
        return FolderReport(None, faults=[Fault("unreadable", "data set", str(error))])
    if not found.has_annotations:
        tree = Tree(found.root)
        paths = [os.path.join(subfolder, name) for subfolder in tree.files for name in tree.images(subfolder)]
        return FolderReport(found, faults=list(image_faults(paths, [None] * len(paths), decode=decode)))
    names = [split for split in found.splits if found.drawn is None or split == "test"]
    names = names if found.drawn is None else ["all", *names]
    reports = {name: check_dataset(partial(found.read, name, masks=masks), decode=decode) for name in names}
    report = FolderReport(found, reports)
    splits = _splits(found, reports)
    report.faults += [*_shared_images(splits), *_untrained_classes(splits)]
    report.remarks += _missing_classes(splits)
    return report


def _splits(found: FoundDataset, reports: dict[str, Report]) -> dict[str, DetectionDataset]:
    """Return the data sets that could be read, by split, including random splits."""
    splits = {name: report.dataset for name, report in reports.items() if report.dataset is not None}
    all_images = splits.pop("all", None)
    if all_images is None or found.drawn is None or len(all_images) < 2:
        return splits
    drawn = {
        split: select_images(all_images, found.drawn.indices(all_images, split, write=False), split)
        for split in ("train", "val")
    }
    return {**drawn, **splits}


def _boxes_by_class(dataset: DetectionDataset) -> np.ndarray:
    return np.bincount(dataset.classes[~dataset.iscrowd], minlength=dataset.num_classes)


def _untrained_classes(splits: dict[str, DetectionDataset]) -> Iterator[Fault]:
    """Yield a fault for each class that is evaluated but has no boxes in the training set."""
    if "train" not in splits:
        return
    trained = _boxes_by_class(splits["train"])
    for split, dataset in splits.items():
        counts = _boxes_by_class(dataset)
        for k in np.flatnonzero((trained == 0) & (counts > 0)).tolist():
            message = f"{counts[k]} boxes are of the class {dataset.class_names[k]!r}, which has no boxes in training"
            yield Fault("class without training", f"{split} set", message)


def _missing_classes(splits: dict[str, DetectionDataset]) -> list[str]:
    """Return remarks about classes that have no boxes in one split or in all splits."""
    if not splits:
        return []
    names = next(iter(splits.values())).class_names
    counts = {split: _boxes_by_class(dataset) for split, dataset in splits.items() if dataset.has_annotations}
    remarks = []
    for k, name in enumerate(names):
        without = [split for split, numbers in counts.items() if not numbers[k]]
        evaluated = [split for split in without if split != "train"]
        if without and len(without) == len(counts):
            remarks.append(f"The class {name!r} has no box in any split: training it is useless")
        elif evaluated:
            where = " and ".join(evaluated)
            remarks.append(f"The class {name!r} has no box in {where}, where it cannot be evaluated")
    return remarks


def _shared_images(splits: dict[str, DetectionDataset]) -> Iterator[Fault]:
    """Yield a fault for each image whose file has the same contents as an image of another split."""
    by_size: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for split, dataset in splits.items():
        for index in range(len(dataset)):
            path = dataset.file_name(index)
            if os.path.isfile(path):
                by_size[os.path.getsize(path)].append((split, path))
    for members in by_size.values():
        if len({split for split, _ in members}) < 2:
            continue
        first: dict[bytes, tuple[str, str]] = {}
        for split, path in members:
            first_split, first_path = first.setdefault(_digest(path), (split, path))
            if first_split != split:
                message = (
                    f"this image of {split} has the same contents as {first_path} of {first_split}: scores are too good"
                )
                yield Fault("image in two splits", path, message, path)


def _digest(path: str) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.digest()
