"""A published checkpoint as a predictor, by its name."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..inference import Predictor
from .cache import obtain
from .registry import find_entry, load_zoo


def load(
    name: str,
    *,
    weights: str | Path | None = None,
    overrides: Sequence[str] = (),
    tables: Iterable[str | os.PathLike[str]] = (),
    **settings: Any,
) -> Predictor:
    """A predictor with the weights that were published under a name: `load("dino_r50_4scale_12ep")("photo.jpg")`.

    The checkpoint is downloaded when it is first used; see docs/zoo.md.

    Args:
        name: of an entry; `python tools/zoo.py list` shows all.
        weights: a file in place of the download.
        overrides: of the config, as on the command line.
        tables: further tables of checkpoints, see `load_zoo`.
        settings: `device`, `score_threshold`, `batch_size` and the other settings of `Predictor`.

    Raises:
        ZooError: when there is no such entry, or its file cannot be had.
        CheckpointError: when the file is of another model.
    """
    entry = find_entry(load_zoo(tables), name)
    cfg = entry.load_config(overrides)
    return Predictor(cfg, weights or obtain(entry).path, **settings)
