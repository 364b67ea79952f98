"""A split into training and validation that is drawn once and written down."""

import hashlib
import json
import logging
import os
from dataclasses import dataclass

import numpy as np

from ..dataset import DetectionDataset
from ..faults import DatasetError
from .tree import split_file_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DrawnSplit:
    """Which images of a folder are for validation.

    The order of drawing is that of a hash of the seed and the file's name: it depends on no other file, machine or
    version. What was drawn is written to `split_seed<seed>_val<share>.json` in the folder. Images that this file does
    not list, which came later, are for training.

    Args:
        root: the folder of the data set.
        seed: another seed draws another split.
        val_share: the share of the images that are for validation, above 0 and below 1.
    """

    root: str
    seed: int
    val_share: float

    @property
    def path(self) -> str:
        return os.path.join(self.root, split_file_name(self.seed, self.val_share))

    def indices(self, dataset: DetectionDataset, split: str, *, write: bool) -> np.ndarray:
        """The positions of the images of `split`, which is `train` or `val`.

        Args:
            dataset: all images.
            split: `train` or `val`.
            write: write the split down where no file has it yet.

        Raises:
            DatasetError: when there are too few images, or the file that has the split does not fit them.
        """
        names = [os.path.relpath(dataset.file_name(index), self.root) for index in range(len(dataset))]
        if os.path.isfile(self.path):
            chosen = self._written(names)
        else:
            chosen = self._draw(names)
            if write:
                self._write(names, chosen)
        wanted = split == "val"
        return np.array([index for index, name in enumerate(names) if (name in chosen) == wanted], dtype=np.int64)

    def _draw(self, names: list[str]) -> set[str]:
        if len(names) < 2:
            raise DatasetError(f"{self.root} has {len(names)} image: a split into train and val needs at least two")
        number = min(len(names) - 1, max(1, round(self.val_share * len(names))))
        return set(sorted(names, key=lambda name: self._rank(name))[:number])

    def _rank(self, name: str) -> bytes:
        text = f"{self.seed}:{name.replace(os.sep, '/')}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()

    def _written(self, names: list[str]) -> set[str]:
        try:
            with open(self.path, encoding="utf-8") as file:
                val = json.load(file)["val"]
            if not isinstance(val, list) or not all(isinstance(name, str) for name in val):
                raise ValueError("'val' is not a list of file names")
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = f"split file {self.path} cannot be read: {error!r}; delete it, and the split is drawn again"
            raise DatasetError(message) from error
        chosen = {name.replace("/", os.sep) for name in val} & set(names)
        if not chosen or len(chosen) == len(names):
            raise DatasetError(
                f"split file {self.path} leaves no image for {'training' if chosen else 'validation'}: its images are "
                "others than those of the folder; delete it, and the split is drawn again"
            )
        return chosen

    def _write(self, names: list[str], chosen: set[str]) -> None:
        content = {
            "seed": self.seed,
            "val_share": self.val_share,
            "val": [name.replace(os.sep, "/") for name in names if name in chosen],
            "train": [name.replace(os.sep, "/") for name in names if name not in chosen],
        }
        # Written beside and moved: another process that reads it meets the whole file or none.
        beside = f"{self.path}.{os.getpid()}"
        try:
            with open(beside, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
            os.replace(beside, self.path)
        except OSError as error:
            logger.warning(
                "The split of %s cannot be written down (%s): it stays the same as long as the images do.",
                self.root,
                error.strerror or error,
            )

    def describe(self, split: str) -> str:
        share = self.val_share if split == "val" else 1 - self.val_share
        return f"{share:.0%} of the images, drawn with seed {self.seed}"

    def remark(self) -> str:
        return (
            f"There is no validation set: {self.val_share:.0%} of the images are drawn for it with seed {self.seed}, "
            f"and {os.path.basename(self.path)} in the folder keeps which"
        )
