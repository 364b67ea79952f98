"""Shared by all commands that train: the choice of the engine, and readable error messages."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .. import distributed
from ..checkpoint import CheckpointError
from ..config import ConfigError, explain, get_config
from ..data import DatasetError
from ..data.detectron2_catalog import INSTALL_DETECTRON2
from .io.folder import LostFolderError
from .memory_full import MemoryFullError
from .run import evaluate, train


def device_of(cfg: Any) -> str:
    """`train.device`, or its default when it is missing or cannot be read; the run then reports the error."""
    try:
        device = OmegaConf.select(cfg, "train.device")
    except OmegaConfBaseException:
        device = None
    return device if isinstance(device, str) else get_config("common/train.py").train.device


def find_engine(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The functions (train, evaluate) of the engine "detrex_lite" or "detectron2".

    Raises:
        ConfigError: when detectron2 is requested but cannot be imported.
    """
    if name == "detrex_lite":
        return train, evaluate
    try:
        import detectron2.engine  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--engine detectron2 needs detectron2 ({error}): {INSTALL_DETECTRON2}") from error
    from . import detectron2_engine

    return detectron2_engine.train, detectron2_engine.evaluate


@contextlib.contextmanager
def clear_errors(*, with_traceback: bool = False) -> Iterator[None]:
    """Inside this context, errors of configs, checkpoints and data exit with status 2 and the message of `explain`.

    A lost output folder and full memory exit with status 1, because the config is not at fault.
    """
    try:
        yield
    except (ConfigError, CheckpointError, DatasetError, LostFolderError, MemoryFullError) as error:
        # Under torchrun the first process of each machine prints its error, because a file may be missing on one
        # machine only. Errors of images and of memory may occur in any single process, so every process prints those.
        local_rank = os.environ.get("LOCAL_RANK")
        is_single = local_rank is not None and isinstance(error, (DatasetError, MemoryFullError))
        if distributed.is_main_process() or local_rank == "0" or is_single:
            print(explain(error, with_traceback=with_traceback), file=sys.stderr)
        raise SystemExit(1 if isinstance(error, (LostFolderError, MemoryFullError)) else 2) from None
