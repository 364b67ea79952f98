"""Everything that is wrong with a data set, and what is in it."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from tqdm import tqdm

from .catalog import is_registered, load_dataset, locate
from .coco import read_coco
from .dataset import DetectionDataset
from .faults import DatasetError, Fault, FaultLog, printable, size_fault
from .image import read_image, read_image_size
from .voc import read_voc

# COCO's size classes: areas in square pixels from which a box is medium, and large.
_SIZE_LIMITS = (32**2, 96**2)
_SIZES = ("small", "medium", "large")

Reader = Callable[..., DetectionDataset]  # takes `log`


@dataclass
class Report:
    """What a check found.

    Attributes:
        dataset: what could be read; None when nothing could.
        faults: all of them.
    """

    dataset: DetectionDataset | None = None
    faults: list[Fault] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [] if self.dataset is None else _summary(self.dataset)
        kinds: dict[str, list[Fault]] = {}
        for fault in self.faults:
            kinds.setdefault(fault.kind, []).append(fault)
        total = len(self.faults)
        lines += ["", f"{total} {'fault' if total == 1 else 'faults'}" if total else "no faults"]
        for kind, faults in kinds.items():
            lines += [f"{kind}: {len(faults)}", *(f"  {fault}" for fault in faults)]
        return printable("\n".join(lines))


def check_dataset(read: Reader, *, decode: bool = False) -> Report:
    """Read a data set and list all its faults.

    Args:
        read: a reader that reports to its keyword argument `log`, e.g. `partial(read_coco, "train.json",
            "images")`.
        decode: read the pixels of every image too, not its header only.
    """
    log = FaultLog(strict=False)
    try:
        dataset = read(log=log)
    except (DatasetError, OSError) as error:
        return Report(None, [*log.faults, Fault("unreadable", "data set", str(error))])
    if os.path.isdir(dataset.image_root or "."):
        log.faults += _image_faults(dataset, decode=decode)
    return Report(dataset, log.faults)


def named_reader(name: str) -> Reader:
    """The reader of a data set of the catalog.

    Raises:
        DatasetError: when the name is unknown, or its files are not there.
    """
    if is_registered(name):
        return lambda *, log: load_dataset(name)
    location = locate(name)
    arguments = dict(location.arguments)
    return partial(read_coco if location.reader == "coco" else read_voc, **arguments)


def _image_faults(dataset: DetectionDataset, *, decode: bool) -> Iterable[Fault]:
    """Images that are missing, cannot be read or are of another size than annotated."""
    for index in tqdm(range(len(dataset)), desc="images", disable=None, leave=False):
        path = dataset.file_name(index)
        if not os.path.isfile(path):
            yield Fault("image missing", path, "the image does not exist")
            continue
        try:
            if decode:
                height, width = read_image(path).shape[-2:]
            else:
                height, width = read_image_size(path)
        except DatasetError as error:
            yield Fault("image unreadable", path, str(error))
            continue
        message = size_fault((height, width), (int(dataset.heights[index]), int(dataset.widths[index])))
        if message:
            yield Fault("image size", path, message)


def _summary(dataset: DetectionDataset) -> list[str]:
    """Counts as lines of text."""
    sizes = np.digitize(dataset.areas, _SIZE_LIMITS)
    counts = np.zeros((dataset.num_classes, len(_SIZES)), dtype=int)
    np.add.at(counts, (dataset.classes, sizes), 1)
    owners = np.repeat(np.arange(len(dataset)), np.diff(dataset.offsets))
    images = [len(np.unique(owners[dataset.classes == k])) for k in range(dataset.num_classes)]

    width = max(map(len, ("class", "all", *dataset.class_names)))
    head = f"{'class':{width}} {'boxes':>9} " + " ".join(f"{size:>9}" for size in _SIZES) + f" {'images':>9}"
    rows = [
        (name, [int(counts[k].sum()), *counts[k].tolist(), images[k]]) for k, name in enumerate(dataset.class_names)
    ]
    rows.append(("all", [int(counts.sum()), *counts.sum(axis=0).tolist(), len(np.unique(owners))]))
    table = [f"{name:{width}} " + " ".join(f"{number:>9}" for number in numbers) for name, numbers in rows]

    lines = [
        f"{dataset.name}: {len(dataset)} images, {dataset.num_boxes} usable boxes",
        f"images without objects: {int((np.diff(dataset.offsets) == 0).sum())}",
        f"crowd or ignored boxes: {int(dataset.iscrowd.sum())}",
        f"num_classes to set: {dataset.num_classes}",
    ]
    if not dataset.has_annotations:
        lines.append("no annotations: for prediction only")
    return [*lines, "", head, *table]
