"""Builds the parts of a run without creating its folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig

from ... import distributed
from ...config import ConfigError
from ..build import build_optimizer, load_initial_weights
from ..io.logs import terminal_logging
from ..loop.trainer import Hook, Trainer
from ..preflight import check_init_checkpoint
from ..processes.determinism import deterministic_algorithms
from ..processes.failures import failures_in_log
from ..run import Run
from ..settings import complete


@contextlib.contextmanager
def trial(cfg: DictConfig) -> Iterator[Run]:
    """Build a run with its initial weights. Inside this context, the log goes to the terminal alone.

    Args:
        cfg: a config as `train` takes it; it is not modified.

    Raises:
        ConfigError: for all errors in the config, and when there are several processes.
        MemoryFullError: when the memory is full.
    """
    if distributed.is_distributed():
        raise ConfigError("a trial runs in one process: leave --num-gpus out, and do not start it by torchrun")
    cfg = complete(cfg, sections=("dataloader", "optimizer", "lr_multiplier"))
    check_init_checkpoint(cfg.train.init_checkpoint)
    with terminal_logging(), failures_in_log(), deterministic_algorithms(cfg.train.deterministic):
        run = Run(cfg, Path(cfg.train.output_dir), resume=False)
        if cfg.train.init_checkpoint:
            load_initial_weights(cfg, run.model, run.class_names)
        yield run


def build_trainer(run: Run, *, max_iter: int, hooks: list[Hook]) -> Trainer:
    """The trainer of a run with other hooks and another length, and without gradient accumulation."""
    trainer = run.build_trainer(build_optimizer(run.cfg.optimizer, run.model))
    trainer.max_iter, trainer.hooks, trainer.accumulate_steps = max_iter, hooks, 1
    return trainer


def autocast(run: Run) -> torch.autocast:
    """The autocast context of the run's precision."""
    return torch.autocast(run.device.type, dtype=run.amp_dtype, enabled=run.amp_dtype is not None)
