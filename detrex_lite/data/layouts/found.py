"""Data sets that were found in folders."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from ...errors import did_you_mean
from ..dataset import DetectionDataset, select_images
from ..faults import DatasetError, FaultLog
from .drawn_split import DrawnSplit
from .tree import SPLITS


@dataclass(frozen=True)
class Part:
    """Images that are read by one call of a reader.

    Attributes:
        where: the file or folder of the annotations.
        images: the folder of the images, or of most of them.
        read: the reader with all arguments except `name`, `masks` and `log`.
        has_masks: returns whether any object has a polygon or run lengths.
    """

    where: str
    images: str
    read: Callable[..., DetectionDataset]
    has_masks: Callable[[], bool] = bool


@dataclass(frozen=True)
class Layout:
    """The splits and classes that a folder has in one layout.

    Attributes:
        name: name of the layout, e.g. `COCO`.
        class_names: K names, the same for all splits.
        category_ids: K ids, as in annotations and predictions.
        parts: split (`train`, `val` or `test`) -> part; only `all` when the folder has no splits.
        remarks: sentences for users.
    """

    name: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    parts: dict[str, Part]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class FoundDataset:
    """A data set in a folder, with its layout, classes and splits. Returned by `find_dataset`.

    Attributes:
        root: the folder.
        layout: the name of its layout: `COCO`, `Roboflow COCO`, `YOLO`, `Pascal VOC`, `CSV` or `images`.
        class_names: K names, the same for all splits; empty for images without annotations.
        category_ids: K ids, as in annotations and predictions.
        parts: split -> its images; for a split that was drawn at random, the images that it was drawn from.
        drawn: the random split of a folder without a validation set; None for other folders.
        remarks: sentences for users, about classes that were left out or files that are not used.
    """

    root: str
    layout: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    parts: dict[str, Part]
    drawn: DrawnSplit | None
    remarks: tuple[str, ...]
    _loaded: dict[tuple[str, bool], DetectionDataset] = field(default_factory=dict, repr=False)

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits that exist, out of `train`, `val` and `test`."""
        return tuple(self.parts)

    @property
    def has_annotations(self) -> bool:
        """False for images without annotations."""
        return bool(self.class_names)

    @property
    def has_masks(self) -> bool:
        """Whether any object has a polygon or run lengths; `masks=True` requires that all have them."""
        return any(part.has_masks() for part in self.parts.values())

    def load(self, split: str, *, masks: bool = False) -> DetectionDataset:
        """Load the data set of one split. Later calls return the same object.

        The first call saves a split that was drawn at random in the folder, so that later calls use the same split.

        Args:
            split: `train`, `val` or `test`.
            masks: also read polygons or run lengths, which every object must have then.

        Raises:
            DatasetError: when the split does not exist, or cannot be read; the message names the file and the line or
                annotation.
        """
        key = (split, bool(masks))
        if key not in self._loaded:
            self._loaded[key] = self.read(split, masks=masks, log=FaultLog())
        return self._loaded[key]

    def read(self, split: str, *, masks: bool = False, log: FaultLog) -> DetectionDataset:
        """Read a split without the cache; faults go to `log`.

        When training and validation images are drawn at random, the split `all` has the images of both.
        """
        if split == "all" and self.drawn is not None:
            return self._read(self.parts["train"], "all", masks, log)
        if split not in self.parts:
            raise DatasetError(f"{self.root} has no split {split!r}{did_you_mean(split, self.parts)}")
        part = self.parts[split]
        if self.drawn is None or split == "test":
            return self._read(part, split, masks, log)
        all_images = self._read(part, "all", masks, log)
        return select_images(all_images, self.drawn.indices(all_images, split, write=log.strict), self._name(split))

    def _read(self, part: Part, split: str, masks: bool, log: FaultLog) -> DetectionDataset:
        if not self.has_annotations:
            raise DatasetError(
                f"{self.root} has images and no annotations, so it cannot be used for training or evaluation. "
                "Annotations are read from COCO JSON, YOLO labels, Pascal VOC XML and CSV. "
                f"{'. '.join(self.remarks[1:])}".rstrip()
            )
        return part.read(name=self._name(split), masks=masks, log=log)

    def _name(self, split: str) -> str:
        return f"{os.path.basename(os.path.abspath(self.root))}_{split}"

    def describe(self) -> str:
        """Describe the data set in a few lines for users."""
        lines = [f"{self.root}: {self.layout}"]
        if self.has_annotations:
            names = ", ".join(self.class_names[:20]) + (", ..." if len(self.class_names) > 20 else "")
            lines.append(f"  {len(self.class_names)} classes: {names}")
        for split, part in self.parts.items():
            origin = "" if self.drawn is None or split == "test" else f", {self.drawn.describe(split)}"
            where, images = (os.path.relpath(path, self.root) for path in (part.where, part.images))
            lines.append(f"  {split}: {where}, images in {'the folder itself' if images == '.' else images}{origin}")
        return "\n".join([*lines, *(f"  {remark}" for remark in self.remarks)])


def found_dataset(root: str, layout: Layout, *, seed: int, val_share: float) -> FoundDataset:
    """Return the data set of a layout; draws `train` and `val` at random if the layout has no `val`."""
    parts: dict[str, Part] = {split: layout.parts[split] for split in SPLITS if split in layout.parts}
    drawn, remarks = None, list(layout.remarks)
    source = next((split for split in ("all", "train") if split in layout.parts), None)
    if layout.class_names and source is not None and "val" not in parts:
        drawn = DrawnSplit(root, seed, val_share)
        parts = {"train": layout.parts[source], "val": layout.parts[source], **parts}
        parts["train"] = layout.parts[source]
        remarks.append(drawn.remark())
    elif "all" in layout.parts:  # images without annotations
        parts = {"test": layout.parts["all"]}
    return FoundDataset(root, layout.name, layout.class_names, layout.category_ids, parts, drawn, tuple(remarks))
