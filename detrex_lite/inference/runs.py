"""A training run by its folder or its checkpoints: which weights to take, and the config that belongs to them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ..checkpoint import Checkpointer, CheckpointError
from ..checkpoint.files import HUGGING_FACE_FILES, SUFFIXES
from ..config import LazyConfig
from ..config.loading import load_text

CONFIG_FILE = "config.yaml"
"""The name under which a run saves its config, beside its checkpoints."""

PREFERRED = ("model_best.pth", "model_final.pth")
"""The checkpoints of a run that predictions are made with, if they are there; otherwise the newest."""


def is_weights(path: Any) -> bool:
    """Whether a path is one of weights, and not of a config file: a checkpoint file, or a folder."""
    if not isinstance(path, str | Path):
        return False
    file = Path(path).expanduser()
    return file.suffix in SUFFIXES or file.is_dir()


def find_weights(path: str | Path) -> Path:
    """The checkpoint file to take.

    Args:
        path: a file, which is returned as it is, or the folder of a run, of which the best checkpoint is taken, or else
            the final one, or else the newest. A folder of Hugging Face's libraries is returned as it is.

    Raises:
        CheckpointError: when the folder holds no checkpoint.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir() or any((folder / name).is_file() for name in HUGGING_FACE_FILES):
        return folder
    for name in PREFERRED:
        if (folder / name).is_file():
            return folder / name
    checkpointer = Checkpointer(folder)
    if checkpointer.has_checkpoint():
        return checkpointer.latest()
    weights = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    if len(weights) == 1:
        return weights[0]
    listed = f"it holds {', '.join(file.name for file in weights)}: give one of them" if weights else "it holds none"
    raise CheckpointError(f"{folder} is not the folder of a training run with a checkpoint; {listed}")


def find_config(weights: Path, stored: Mapping[str, Any]) -> DictConfig:
    """The config of a checkpoint: the one inside, which training puts there, or `config.yaml` beside the file.

    Args:
        weights: the file.
        stored: what it holds.

    Raises:
        CheckpointError: when there is neither.
        ConfigError: when it is no config.
    """
    text = stored.get("config")
    if isinstance(text, str) and text.strip():
        return load_text(text, f"the config in {weights}")
    beside = (weights if weights.is_dir() else weights.parent) / CONFIG_FILE
    if beside.is_file():
        return LazyConfig.load(beside)
    raise CheckpointError(
        f"{weights} holds no config, and there is no {beside}: give the config file that it was trained with as well"
    )
