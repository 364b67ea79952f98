"""Settings that are derived from the user's data, batch size and pre-trained weights.

Configs refer to them as `${detrex_lite.call:detrex_lite.engine.derived.NAME}`; a number written in place of such a
reference overrides it. The functions read these keys: `dataset.train_annotations` (a COCO JSON file) or `dataset.root`
and the keys next to it (a folder, see configs/common/data/folder.py), `dataloader.train.total_batch_size`,
`train.accumulate_steps`, `pretrained.detector` and `pretrained.backbone` (files, or None). They also read the schedule
of the published training from `published.epochs`, `.batch` and `.lr`; configs without `published` get DINO's values.
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
_FRESH = 5.0  # seconds for which the counts of a folder are cached
SCRATCH_EPOCHS = 3  # factor for training without pre-trained weights (He et al., ICCV 2019, find about 3 for COCO)


def num_classes(cfg: DictConfig) -> int:
    """The number of classes of the data set.

    Raises:
        ConfigError: when its annotations cannot be read or list none.
    """
    return _annotations(cfg)[0]


def max_epochs(cfg: DictConfig) -> int:
    """The epochs of the published schedule, times sqrt(COCO size / data set size) for data sets smaller than COCO.

    This is a compromise: with the published number of epochs a small data set gets too few steps, and with the
    published number of steps each image is seen too often. It is limited to 200, and then tripled when there are no
    pre-trained weights.
    """
    images = max(1, _annotations(cfg)[1])
    scale = math.sqrt(max(1.0, COCO_IMAGES / images))
    epochs = min(MOST_EPOCHS, _published(cfg, "epochs", PUBLISHED_EPOCHS) * scale)
    return math.ceil(epochs) * (1 if _has_weights(cfg) else SCRATCH_EPOCHS)


def learning_rate(cfg: DictConfig) -> float:
    """The published learning rate, times sqrt(batch / published batch), the scaling rule that suits AdamW."""
    batch = int(OmegaConf.select(cfg, "dataloader.train.total_batch_size"))
    batch *= int(OmegaConf.select(cfg, "train.accumulate_steps", default=1))
    lr, published_batch = _published(cfg, "lr", PUBLISHED_LR), _published(cfg, "batch", PUBLISHED_BATCH)
    return float(f"{lr * math.sqrt(batch / published_batch):.2e}")


def strong_first(cfg: DictConfig) -> int:
    """For `dataloader.strong_epochs[0]`: in proportion to DEIM, whose augmentation begins after 4 of 132 epochs."""
    epochs = _epochs(cfg)
    return 0 if epochs is None else min(round(epochs / 33), _strong_end(epochs) - 1)


def strong_end(cfg: DictConfig) -> int | None:
    """For `dataloader.strong_epochs[1]`: in proportion to DEIM, which trains the last 12 of 132 epochs without it.

    Returns None when the length of the training is given in steps.
    """
    epochs = _epochs(cfg)
    return None if epochs is None else _strong_end(epochs)


def mosaic_end(cfg: DictConfig) -> int | None:
    """For `dataloader.mosaic_epochs[1]`: mosaics start with strong augmentation, and last `strong_end` / 2 epochs."""
    end, first = strong_end(cfg), strong_first(cfg)
    return None if end is None else max(first + 1, first + end // 2)


def _strong_end(epochs: int) -> int:
    return max(1, epochs - max(1, round(epochs / 11)))


def _epochs(cfg: DictConfig) -> int | None:
    epochs = OmegaConf.select(cfg, "train.max_epochs")
    return None if epochs is None else math.ceil(epochs)


def _published(cfg: DictConfig, key: str, default: float) -> float:
    return float(OmegaConf.select(cfg, f"published.{key}", default=default))


def detector_weights(cfg: DictConfig) -> str:
    """For `train.init_checkpoint`: `pretrained.detector` if it is set, otherwise ""."""
    return _existing_path(cfg, "pretrained.detector") or ""


def backbone_weights(cfg: DictConfig) -> str | None:
    """For `model.backbone.weights`: `pretrained.backbone`, unless the weights of a detector include a backbone."""
    return None if detector_weights(cfg) else _existing_path(cfg, "pretrained.backbone")


def backbone_norm(cfg: DictConfig) -> str:
    """For `model.backbone.norm`: batch norms are frozen only when the weights are pre-trained."""
    return "FrozenBN" if _has_weights(cfg) else "BN"


def backbone_freeze_at(cfg: DictConfig) -> int:
    """For `model.backbone.freeze_at`: the stem of a pre-trained backbone is frozen."""
    return 1 if _has_weights(cfg) else 0


def backbone_lr_factor(cfg: DictConfig) -> float:
    """For `optimizer.params.backbone_lr_factor`: pre-trained backbones are trained at a lower rate."""
    return 0.1 if _has_weights(cfg) else 1.0


def _has_weights(cfg: DictConfig) -> bool:
    return bool(detector_weights(cfg) or backbone_weights(cfg))


def _existing_path(cfg: DictConfig, key: str) -> str | None:
    """The path under `key`, or None when the key is empty.

    Raises:
        ConfigError: when the file does not exist. Without this error the model would silently train from scratch.
    """
    value = OmegaConf.select(cfg, key)
    if not value:
        return None
    file = Path(os.path.expanduser(str(value)))
    if not file.exists():
        raise ConfigError(f"{key}={value}: there is no such file (looked from {Path.cwd()}); null trains without it")
    return str(file)


def _annotations(cfg: DictConfig) -> tuple[int, int]:
    """The numbers of classes and of images of the training data."""
    if "train_annotations" not in cfg.dataset and "root" in cfg.dataset:
        return _annotations_of_folder(cfg)
    # For a missing value omegaconf raises an error, which `validate` reports for the key itself.
    file = Path(os.path.expanduser(str(OmegaConf.select(cfg, "dataset.train_annotations", throw_on_missing=True))))
    try:
        return _counts(file, file.stat().st_mtime_ns)
    except OSError as error:
        raise ConfigError(f"dataset.train_annotations={file} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"dataset.train_annotations={file} is not a COCO JSON file with 'images' and 'categories' ({error})"
        ) from error


def _annotations_of_folder(cfg: DictConfig) -> tuple[int, int]:
    root = OmegaConf.select(cfg, "dataset.root", throw_on_missing=True)
    values = {key: OmegaConf.select(cfg, f"dataset.{key}") for key in ("seed", "val_share", "layout")}
    options = tuple((key, value) for key, value in values.items() if value is not None)
    try:
        return _folder_counts(str(root), options, int(time.monotonic() / _FRESH))
    except DatasetError as error:
        raise ConfigError(f"dataset.root={root}: {error}") from error


@functools.lru_cache(maxsize=8)
def _folder_counts(root: str, options: tuple[tuple[str, Any], ...], moment: int) -> tuple[int, int]:
    """The numbers of classes and of training images in a folder, cached because a config resolves them many times.

    Args:
        root: the folder.
        options: arguments of `find_dataset`.
        moment: part of the cache key, so that the folder is scanned again when this number changes. (Scanning a large
            folder takes a second.)
    """
    dataset = find_dataset(root, **dict(options))
    return len(dataset.class_names), len(dataset.load("train"))


@functools.lru_cache(maxsize=8)
def _counts(file: Path, changed: int) -> tuple[int, int]:
    """The numbers of categories and of images in a COCO JSON file.

    Args:
        file: the file.
        changed: its modification time, which is part of the cache key: an unchanged file is read once.
    """
    content = read_json(str(file), FaultLog())
    if not content["categories"]:
        raise ValueError("it lists no categories")
    return len(content["categories"]), len(content["images"])
