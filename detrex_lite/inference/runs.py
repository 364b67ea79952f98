"""Finds the weights of a training run, and the config that belongs to them, by its folder or a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ..checkpoint import Checkpointer, CheckpointError
from ..checkpoint.files import HUGGING_FACE_FILES, SUFFIXES
from ..config import LazyConfig
from ..config.loading import load_text

CONFIG_FILE = "config.yaml"
"""The name of the file in which a run saves its config, next to its checkpoints."""

PREFERRED = ("model_best.pth", "model_final.pth")
"""The checkpoints of a run that are used for predictions, if they exist; otherwise the newest is used."""


def is_weights(path: Any) -> bool:
    """Return whether a path is that of weights (a checkpoint file or a folder) and not of a config file."""
    if not isinstance(path, str | Path):
        return False
    file = Path(path).expanduser()
    return file.suffix in SUFFIXES or file.is_dir()


def find_weights(path: str | Path) -> Path:
    """Find the checkpoint file to load.

    Args:
        path: a file, which is returned unchanged, or the folder of a run, whose best checkpoint is returned, or else
            the final or the newest one. A folder of Hugging Face's libraries is returned unchanged.

    Raises:
        CheckpointError: when the folder has no checkpoint.
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
    listed = f"it has {', '.join(file.name for file in weights)}: give one of them" if weights else "it has none"
    raise CheckpointError(f"{folder} is not the folder of a training run with a checkpoint; {listed}")


def find_config(weights: Path, stored: Mapping[str, Any]) -> DictConfig:
    """Find the config of a checkpoint: the one that training stored in it, or `config.yaml` next to the file.

    Args:
        weights: the checkpoint file.
        stored: content of the checkpoint file.

    Raises:
        CheckpointError: when neither of them exists.
        ConfigError: when the config is invalid.
    """
    text = stored.get("config")
    if isinstance(text, str) and text.strip():
        return load_text(text, f"the config in {weights}")
    config_file = (weights if weights.is_dir() else weights.parent) / CONFIG_FILE
    if config_file.is_file():
        return LazyConfig.load(config_file)
    raise CheckpointError(
        f"{weights} has no config, and {config_file} does not exist: also give the config file that it was trained with"
    )
