"""Everything that is wrong with the data set in a folder, and what people should know about it."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from .check import Report, check_dataset, image_faults, listed, summary
from .dataset import DetectionDataset, select_images
from .faults import DatasetError, Fault, printable
from .layouts import FoundDataset, find_dataset
from .layouts.tree import Tree

_BLOCK = 2**20  # bytes that are read at once


@dataclass
class FolderReport:
    """What a check of a folder found.

    Attributes:
        found: the data set; None when there is none.
        reports: by split what a check of each found; `all` where the split into training and validation is drawn.
        faults: of the splits together: images that several have, classes of one that training does not have.
        remarks: what is no fault, but may be none of the user's intentions, a sentence each.
    """

    found: FoundDataset | None = None
    reports: dict[str, Report] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def all_faults(self) -> list[Fault]:
        """Those of the splits, and those of the whole."""
        return [*(fault for report in self.reports.values() for fault in report.faults), *self.faults]

    def __str__(self) -> str:
        lines = [] if self.found is None else [self.found.describe(), ""]
        for report in self.reports.values():
            if report.dataset is not None:
                lines += [*summary(report.dataset), ""]
        lines += [f"note: {remark}" for remark in self.remarks]
        return printable("\n".join([*lines, *([""] if self.remarks else []), *listed(self.all_faults)]))


def check_folder(
    folder: str | os.PathLike[str],
    *,
    decode: bool = True,
    masks: bool = False,
    seed: int = 0,
    val_share: float = 0.2,
    layout: str | None = None,
) -> FolderReport:
    """Look for the data set in a folder, read all its splits and list all faults.

    Args:
        folder: as `find_dataset` takes it, and so are `seed`, `val_share` and `layout`.
        decode: read the pixels of every image; otherwise the headers only.
        masks: check polygons and run lengths, too.
    """
    try:
        found = find_dataset(folder, seed=seed, val_share=val_share, layout=layout)
    except DatasetError as error:
        return FolderReport(None, faults=[Fault("unreadable", "data set", str(error))])
    if not found.has_annotations:
        tree = Tree(found.root)
        paths = [os.path.join(below, name) for below in tree.files for name in tree.images(below)]
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
    """The data sets that could be read, by split, drawn ones included."""
    splits = {name: report.dataset for name, report in reports.items() if report.dataset is not None}
    whole = splits.pop("all", None)
    if whole is None or found.drawn is None or len(whole) < 2:
        return splits
    drawn = {
        split: select_images(whole, found.drawn.indices(whole, split, write=False), split) for split in ("train", "val")
    }
    return {**drawn, **splits}


def _boxes_by_class(dataset: DetectionDataset) -> np.ndarray:
    return np.bincount(dataset.classes[~dataset.iscrowd], minlength=dataset.num_classes)


def _untrained_classes(splits: dict[str, DetectionDataset]) -> Iterator[Fault]:
    """Classes that are evaluated and never seen in training."""
    if "train" not in splits:
        return
    trained = _boxes_by_class(splits["train"])
    for split, dataset in splits.items():
        counts = _boxes_by_class(dataset)
        for k in np.flatnonzero((trained == 0) & (counts > 0)).tolist():
            message = f"{counts[k]} boxes are of the class {dataset.class_names[k]!r}, of which training has none"
            yield Fault("class without training", f"{split} set", message)


def _missing_classes(splits: dict[str, DetectionDataset]) -> list[str]:
    """Sentences about classes without a box, in one split or in all."""
    if not splits:
        return []
    names = next(iter(splits.values())).class_names
    counts = {split: _boxes_by_class(dataset) for split, dataset in splits.items() if dataset.has_annotations}
    remarks = []
    for k, name in enumerate(names):
        without = [split for split, numbers in counts.items() if not numbers[k]]
        evaluated = [split for split in without if split != "train"]
        if without and len(without) == len(counts):
            remarks.append(f"The class {name!r} has no box in any split: a model learns it for nothing")
        elif evaluated:
            where = " and ".join(evaluated)
            remarks.append(f"The class {name!r} has no box in {where}, where it cannot be evaluated")
    return remarks


def _shared_images(splits: dict[str, DetectionDataset]) -> Iterator[Fault]:
    """Images of one split whose file has the same contents as one of another."""
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
            other_split, other = first.setdefault(_digest(path), (split, path))
            if other_split != split:
                message = (
                    f"this image of {split} has the same contents as {other} of {other_split}: scores are too good"
                )
                yield Fault("image in two splits", path, message, path)


def _digest(path: str) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.digest()
