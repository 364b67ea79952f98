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
    """Create a predictor with published weights: `load("dino_r50_4scale_12ep")("photo.jpg")`.

    The checkpoint is downloaded when it is first used; see docs/zoo.md.

    Args:
        name: name of an entry; `detrex-lite zoo list` shows all.
        weights: a file instead of the download.
        overrides: overrides of the config, as on the command line.
        tables: further tables of checkpoints, see `load_zoo`.
        settings: `device`, `score_threshold`, `batch_size` and the other arguments of `Predictor`.

    Raises:
        ZooError: when there is no such entry, or its file is not available.
        CheckpointError: when the file is of a different model.
    """
    entry = find_entry(load_zoo(tables), name)
    cfg = entry.load_config(overrides)
    return Predictor(cfg, weights or obtain(entry).path, **settings)
