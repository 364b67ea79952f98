"""Settings that follow from a user's own data, its batch size and the weights at hand.

Configs write them as `${detrex_lite.call:detrex_lite.engine.derived.NAME}`, and a number in their place counts instead.
They read these keys: `dataset.train_annotations` (a COCO JSON file) or `dataset.root` with the keys beside it (a
folder, see configs/common/data/folder.py), `dataloader.train.total_batch_size`, `train.accumulate_steps`,
`pretrained.detector` and `pretrained.backbone` (files, or None), and of the published training `published.epochs`,
`.batch` and `.lr`, which are DINO's where a config has no `published`.
"""

import functools
import math
import os
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..config import ConfigError
from ..data import DatasetError, find_dataset
from ..data.coco import read_json
from ..data.faults import FaultLog

COCO_IMAGES = 118_287  # of train2017
PUBLISHED_EPOCHS, PUBLISHED_BATCH, PUBLISHED_LR = (
    12,
    16,
    1e-4,
)  # of DINO (Zhang et al., ICLR 2023, table 1, section B.3)
MOST_EPOCHS = 200
_FRESH = 5.0  # seconds
SCRATCH_EPOCHS = 3  # times as many without pre-trained weights (He et al., ICCV 2019, find about that for COCO)


def num_classes(cfg: DictConfig) -> int:
    """How many classes the data set has.

    Raises:
        ConfigError: when its annotations cannot be read or list none.
    """
    return _annotations(cfg)[0]


def max_epochs(cfg: DictConfig) -> int:
    """As many as the published schedule has, and for small data sets more, by the root of how much smaller they are.

    Between the two simple choices: the same epochs are too few steps, the same steps see each image too often. At most
    200; three times as many without any pre-trained weights.
    """
    images = max(1, _annotations(cfg)[1])
    smaller = math.sqrt(max(1.0, COCO_IMAGES / images))
    epochs = min(MOST_EPOCHS, _published(cfg, "epochs", PUBLISHED_EPOCHS) * smaller)
    return math.ceil(epochs) * (1 if _has_weights(cfg) else SCRATCH_EPOCHS)


def learning_rate(cfg: DictConfig) -> float:
    """The published one, times the root of how much larger or smaller the batch of a step is, as suits AdamW."""
    batch = int(OmegaConf.select(cfg, "dataloader.train.total_batch_size"))
    batch *= int(OmegaConf.select(cfg, "train.accumulate_steps", default=1))
    lr, published_batch = _published(cfg, "lr", PUBLISHED_LR), _published(cfg, "batch", PUBLISHED_BATCH)
    return float(f"{lr * math.sqrt(batch / published_batch):.2e}")


def strong_first(cfg: DictConfig) -> int:
    """For `dataloader.strong_epochs[0]`: as DEIM begins its augmentation after 4 of 132 epochs."""
    epochs = _epochs(cfg)
    return 0 if epochs is None else min(round(epochs / 33), _strong_end(epochs) - 1)


def strong_end(cfg: DictConfig) -> int | None:
    """For `dataloader.strong_epochs[1]`: as DEIM trains 12 of 132 epochs without. None when the length is in steps."""
    epochs = _epochs(cfg)
    return None if epochs is None else _strong_end(epochs)


def mosaic_end(cfg: DictConfig) -> int | None:
    """For `dataloader.mosaic_epochs[1]`: half of the epochs before the end of strong augmentation, from its start."""
    end, first = strong_end(cfg), strong_first(cfg)
    return None if end is None else max(first + 1, first + end // 2)


def _strong_end(epochs: int) -> int:
    return max(1, epochs - max(1, round(epochs / 11)))


def _epochs(cfg: DictConfig) -> int | None:
    epochs = OmegaConf.select(cfg, "train.max_epochs")
    return None if epochs is None else math.ceil(epochs)


def _published(cfg: DictConfig, key: str, otherwise: float) -> float:
    return float(OmegaConf.select(cfg, f"published.{key}", default=otherwise))


def detector_weights(cfg: DictConfig) -> str:
    """For `train.init_checkpoint`: `pretrained.detector` if it is given, otherwise ""."""
    return _given(cfg, "pretrained.detector") or ""


def backbone_weights(cfg: DictConfig) -> str | None:
    """For `model.backbone.weights`: `pretrained.backbone` if it is given, and no detector's that holds them."""
    return None if detector_weights(cfg) else _given(cfg, "pretrained.backbone")


def backbone_norm(cfg: DictConfig) -> str:
    """For `model.backbone.norm`: frozen statistics are for pre-trained weights only."""
    return "FrozenBN" if _has_weights(cfg) else "BN"


def backbone_freeze_at(cfg: DictConfig) -> int:
    """For `model.backbone.freeze_at`: the stem of a pre-trained backbone stays as it is."""
    return 1 if _has_weights(cfg) else 0


def backbone_lr_factor(cfg: DictConfig) -> float:
    """For `optimizer.params.backbone_lr_factor`: pre-trained weights are to change little."""
    return 0.1 if _has_weights(cfg) else 1.0


def _has_weights(cfg: DictConfig) -> bool:
    return bool(detector_weights(cfg) or backbone_weights(cfg))


def _given(cfg: DictConfig, key: str) -> str | None:
    """The path that is given, if any.

    Raises:
        ConfigError: when nothing is there: training from scratch would look the same, but for its results.
    """
    given = OmegaConf.select(cfg, key)
    if not given:
        return None
    file = Path(os.path.expanduser(str(given)))
    if not file.exists():
        raise ConfigError(f"{key}={given}: there is no such file (looked from {Path.cwd()}); null begins without it")
    return str(file)


def _annotations(cfg: DictConfig) -> tuple[int, int]:
    """How many classes and images the training data have."""
    if "train_annotations" not in cfg.dataset and "root" in cfg.dataset:
        return _in_folder(cfg)
    # A value that is missing is omegaconf's error, which `validate` reports as that of the key itself.
    file = Path(os.path.expanduser(str(OmegaConf.select(cfg, "dataset.train_annotations", throw_on_missing=True))))
    try:
        return _counts(file, file.stat().st_mtime_ns)
    except OSError as error:
        raise ConfigError(f"dataset.train_annotations={file} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"dataset.train_annotations={file} is no COCO JSON file with 'images' and 'categories' ({error})"
        ) from error


def _in_folder(cfg: DictConfig) -> tuple[int, int]:
    root = OmegaConf.select(cfg, "dataset.root", throw_on_missing=True)
    given = {key: OmegaConf.select(cfg, f"dataset.{key}") for key in ("seed", "val_share", "layout")}
    options = tuple((key, value) for key, value in given.items() if value is not None)
    try:
        return _folder_counts(str(root), options, int(time.monotonic() / _FRESH))
    except DatasetError as error:
        raise ConfigError(f"dataset.root={root}: {error}") from error


@functools.lru_cache(maxsize=8)
def _folder_counts(root: str, options: tuple[tuple[str, Any], ...], moment: int) -> tuple[int, int]:
    """moment: within one the folder is looked at once, as a config asks many times and large folders take a second."""
    found = find_dataset(root, **dict(options))
    return len(found.class_names), len(found.load("train"))


@functools.lru_cache(maxsize=8)
def _counts(file: Path, changed: int) -> tuple[int, int]:
    """changed: when the file was written last; the same file is read once."""
    content = read_json(str(file), FaultLog())
    if not content["categories"]:
        raise ValueError("it lists no categories")
    return len(content["categories"]), len(content["images"])
