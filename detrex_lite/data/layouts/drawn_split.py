"""A random split into training and validation images that is drawn once and saved."""

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
    """A random split of the images of a folder into training and validation.

    Images are drawn in the order of a hash of the seed and the file's name, which does not depend on other files, the
    machine or the version. The split is saved as `split_seed<seed>_val<fraction>.json` in the folder. Images that this
    file does not list, because they were added later, are used for training.

    Args:
        root: the folder of the data set.
        seed: seed of the split.
        val_share: the fraction of images for validation, above 0 and below 1.
    """

    root: str
    seed: int
    val_share: float

    @property
    def path(self) -> str:
        return os.path.join(self.root, split_file_name(self.seed, self.val_share))

    def indices(self, dataset: DetectionDataset, split: str, *, write: bool) -> np.ndarray:
        """Return the positions of the images of a split.

        Args:
            dataset: the data set with all images.
            split: `train` or `val`.
            write: save the split if it has not been saved yet.

        Raises:
            DatasetError: when there are too few images, or the saved split does not match them.
        """
        names = [os.path.relpath(dataset.file_name(index), self.root) for index in range(len(dataset))]
        if os.path.isfile(self.path):
            chosen = self._read(names)
        else:
            chosen = self._draw(names)
            if write:
                self._write(names, chosen)
        is_val = split == "val"
        return np.array([index for index, name in enumerate(names) if (name in chosen) == is_val], dtype=np.int64)

    def _draw(self, names: list[str]) -> set[str]:
        if len(names) < 2:
            raise DatasetError(f"{self.root} has {len(names)} image: a split into train and val needs at least two")
        number = min(len(names) - 1, max(1, round(self.val_share * len(names))))
        return set(sorted(names, key=lambda name: self._rank(name))[:number])

    def _rank(self, name: str) -> bytes:
        text = f"{self.seed}:{name.replace(os.sep, '/')}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()

    def _read(self, names: list[str]) -> set[str]:
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
                "not those of the folder; delete it, and the split is drawn again"
            )
        return chosen

    def _write(self, names: list[str], chosen: set[str]) -> None:
        content = {
            "seed": self.seed,
            "val_share": self.val_share,
            "val": [name.replace(os.sep, "/") for name in names if name in chosen],
            "train": [name.replace(os.sep, "/") for name in names if name not in chosen],
        }
        # Written under a temporary name and renamed, so that other processes never read an incomplete file.
        temporary = f"{self.path}.{os.getpid()}"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
            os.replace(temporary, self.path)
        except OSError as error:
            logger.warning(
                "The split of %s cannot be saved (%s): it changes if images are added or removed.",
                self.root,
                error.strerror or error,
            )

    def describe(self, split: str) -> str:
        share = self.val_share if split == "val" else 1 - self.val_share
        return f"{share:.0%} of the images, drawn with seed {self.seed}"

    def remark(self) -> str:
        return (
            f"There is no validation set: {self.val_share:.0%} of the images are drawn for it with seed {self.seed} "
            f"and listed in {os.path.basename(self.path)} in the folder"
        )
