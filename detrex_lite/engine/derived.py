"""Settings that follow from a user's own data, its batch size and the weights at hand.

Configs write them as `${detrex_lite.call:detrex_lite.engine.derived.NAME}`, and a number in their place counts instead.
They read these keys: `dataset.train_annotations` (a COCO JSON file), `dataloader.train.total_batch_size`,
`train.accumulate_steps`, `pretrained.detector` and `pretrained.backbone` (files, or None).
"""

import functools
import math
import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ..config import ConfigError
from ..data.coco import read_json
from ..data.faults import FaultLog

COCO_IMAGES = 118_287  # of train2017
PUBLISHED_EPOCHS, PUBLISHED_BATCH, PUBLISHED_LR = (
    12,
    16,
    1e-4,
)  # of DINO (Zhang et al., ICLR 2023, table 1, section B.3)
MOST_EPOCHS = 200
SCRATCH_EPOCHS = 3  # times as many without pre-trained weights (He et al., ICCV 2019, find about that for COCO)


def num_classes(cfg: DictConfig) -> int:
    """How many categories the training annotations list.

    Raises:
        ConfigError: when the file cannot be read or lists none.
    """
    return _annotations(cfg)[0]


def max_epochs(cfg: DictConfig) -> int:
    """As many as the published schedule has, and for small data sets more, by the root of how much smaller they are.

    Between the two simple choices: the same epochs are too few steps, the same steps see each image too often. At most
    200; three times as many without any pre-trained weights.
    """
    images = max(1, _annotations(cfg)[1])
    epochs = min(MOST_EPOCHS, PUBLISHED_EPOCHS * math.sqrt(max(1.0, COCO_IMAGES / images)))
    return math.ceil(epochs) * (1 if _has_weights(cfg) else SCRATCH_EPOCHS)


def learning_rate(cfg: DictConfig) -> float:
    """The published one, times the root of how much larger or smaller the batch of a step is, as suits AdamW."""
    batch = int(OmegaConf.select(cfg, "dataloader.train.total_batch_size"))
    batch *= int(OmegaConf.select(cfg, "train.accumulate_steps", default=1))
    return float(f"{PUBLISHED_LR * math.sqrt(batch / PUBLISHED_BATCH):.2e}")


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
    """How many categories and images the training annotations have."""
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


@functools.lru_cache(maxsize=8)
def _counts(file: Path, changed: int) -> tuple[int, int]:
    """changed: when the file was written last; the same file is read once."""
    content = read_json(str(file), FaultLog())
    if not content["categories"]:
        raise ValueError("it lists no categories")
    return len(content["categories"]), len(content["images"])
