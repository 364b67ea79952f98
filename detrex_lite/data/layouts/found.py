"""A data set as it was found in a folder."""

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
    """The images that one reader reads.

    Attributes:
        where: the file or folder of its annotations.
        images: the folder of its images, or of most of them.
        read: the reader with its arguments but `name`, `masks` and `log`.
        has_masks: says whether some object has a polygon or run lengths.
    """

    where: str
    images: str
    read: Callable[..., DetectionDataset]
    has_masks: Callable[[], bool] = bool


@dataclass(frozen=True)
class Layout:
    """What a module that knows one layout found.

    Attributes:
        name: of the layout, e.g. `COCO`.
        class_names: K names, the same for all splits.
        category_ids: K ids, as annotations and predictions have them.
        parts: by split: `train`, `val`, `test`, or only `all` where the folder says nothing about splits.
        remarks: what people should know.
    """

    name: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    parts: dict[str, Part]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class FoundDataset:
    """A data set in a folder: its layout, classes and splits. `find_dataset` makes it.

    Attributes:
        root: the folder.
        layout: the name of its layout: `COCO`, `Roboflow COCO`, `YOLO`, `Pascal VOC`, `CSV` or `images`.
        class_names: K names, the same for all splits; none for images alone.
        category_ids: K ids, as the annotations have them and predictions get them.
        parts: where each split was found; where it was drawn, what it was drawn from.
        drawn: the split that was drawn because the folder has none; None where it has one.
        remarks: what people should know, a sentence each: classes that were left out, files that are not used.
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
        """The names of the splits: of `train`, `val` and `test` those that there are."""
        return tuple(self.parts)

    @property
    def has_annotations(self) -> bool:
        """False for images alone."""
        return bool(self.class_names)

    @property
    def has_masks(self) -> bool:
        """Whether some object has a polygon or run lengths; with `masks=True` all must have."""
        return any(part.has_masks() for part in self.parts.values())

    def load(self, split: str, *, masks: bool = False) -> DetectionDataset:
        """The data set of one split. Later calls return the same object.

        A split that was drawn is written into the folder by the first call, where later ones find it.

        Args:
            split: `train`, `val` or `test`.
            masks: read polygons or run lengths, too, which every object must then have.

        Raises:
            DatasetError: when there is no such split, or something in it cannot be read; the message names the
                file and the line or annotation.
        """
        key = (split, bool(masks))
        if key not in self._loaded:
            self._loaded[key] = self.read(split, masks=masks, log=FaultLog())
        return self._loaded[key]

    def read(self, split: str, *, masks: bool = False, log: FaultLog) -> DetectionDataset:
        """Read a split without the cache; faults go to `log`.

        Where training and validation are drawn, `all` is what they are drawn from.
        """
        if split == "all" and self.drawn is not None:
            return self._read(self.parts["train"], "all", masks, log)
        if split not in self.parts:
            raise DatasetError(f"{self.root} has no split {split!r}{did_you_mean(split, self.parts)}")
        part = self.parts[split]
        if self.drawn is None or split == "test":
            return self._read(part, split, masks, log)
        whole = self._read(part, "all", masks, log)
        return select_images(whole, self.drawn.indices(whole, split, write=log.strict), self._name(split))

    def _read(self, part: Part, split: str, masks: bool, log: FaultLog) -> DetectionDataset:
        if not self.has_annotations:
            raise DatasetError(
                f"{self.root} has images and no annotations: there is nothing to train or evaluate on. Annotations are "
                f"looked for as COCO JSON, YOLO labels, Pascal VOC XML and CSV. {'. '.join(self.remarks[1:])}".rstrip()
            )
        return part.read(name=self._name(split), masks=masks, log=log)

    def _name(self, split: str) -> str:
        return f"{os.path.basename(os.path.abspath(self.root))}_{split}"

    def describe(self) -> str:
        """What was found, in a few lines for people."""
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
    """The splits of a layout, of which `train` and `val` are drawn where it has no `val`."""
    parts: dict[str, Part] = {split: layout.parts[split] for split in SPLITS if split in layout.parts}
    drawn, remarks = None, list(layout.remarks)
    source = next((split for split in ("all", "train") if split in layout.parts), None)
    if layout.class_names and source is not None and "val" not in parts:
        drawn = DrawnSplit(root, seed, val_share)
        parts = {"train": layout.parts[source], "val": layout.parts[source], **parts}
        parts["train"] = layout.parts[source]
        remarks.append(drawn.remark())
    elif "all" in layout.parts:  # images alone
        parts = {"test": layout.parts["all"]}
    return FoundDataset(root, layout.name, layout.class_names, layout.category_ids, parts, drawn, tuple(remarks))
