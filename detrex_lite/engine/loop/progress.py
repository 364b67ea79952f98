"""The progress of a training: lines of the log, the progress bar, and the values passed to the metrics writers."""

import io
import logging
import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta

import torch
from tqdm import tqdm

from ... import distributed
from ..io.logs import FILE_ONLY
from ..io.state import TrainingState
from ..io.writers import Writer
from .trainer import Hook, Trainer

logger = logging.getLogger(__name__)

PHASES = ("data", "forward", "matching", "backward", "optimizer")


class ProgressLog(Hook):
    """Writes the means since the last line, every `period` steps and after the last one.

    A terminal shows a progress bar instead of the lines. The remaining time includes the time that evaluations and
    checkpoints have taken per step so far.

    Args:
        period: steps between two lines.
        writers: receive the numbers; empty on all processes but the main one.
        state: stores losses and other scalars since the last line, so that they are saved with a checkpoint.
    """

    def __init__(self, *, period: int, writers: Sequence[Writer], state: TrainingState):
        self.period = period
        self.writers = writers
        self.state = state
        self._bar: tqdm | None = None
        self._shown_loss = ""
        self._started = time.perf_counter()
        self._all_steps, self._all_seconds = 0, 0.0
        self._steps = self._images = 0
        self._seconds = self._data_seconds = 0.0

    def before_train(self, trainer: Trainer) -> None:
        self._started = time.perf_counter()
        if distributed.is_main_process() and _shows_a_bar() and trainer.iteration < trainer.max_iter:
            self._bar = tqdm(
                total=trainer.max_iter,
                initial=trainer.iteration,
                desc="train",
                bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}",
                dynamic_ncols=True,
            )

    def after_step(self, trainer: Trainer) -> None:
        self.state.losses.add(trainer.losses)
        self.state.scalars.add(trainer.scalars.means(trainer.device))
        self._steps += 1
        self._seconds += trainer.step_seconds
        self._data_seconds += trainer.data_seconds
        self._images += trainer.num_images
        self._all_steps += 1
        self._all_seconds += trainer.step_seconds
        if self._bar is not None:
            remaining = self._remaining(trainer, self._seconds / self._steps)
            self._bar.set_postfix_str(f"eta {remaining}{self._shown_loss}", refresh=False)
            self._bar.update()
        if trainer.iteration % self.period == 0 or trainer.iteration == trainer.max_iter:
            self._write(trainer)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _write(self, trainer: Trainer) -> None:
        scalars, user_scalars = self._scalars(trainer)
        self.state.losses.restart()
        self.state.scalars.restart()
        self._steps = self._images = 0
        self._seconds = self._data_seconds = 0.0
        for writer in self.writers:
            writer.write(trainer.iteration, {**scalars, **user_scalars})
        if not distributed.is_main_process():
            return
        remaining = self._remaining(trainer, scalars["time"])
        rate = f"{scalars['images_per_second']:.1f} images/s"
        shown = {name: scalars[name] for name in _main_losses(scalars)} | user_scalars
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        self._shown_loss = f", loss {scalars['total_loss']:.3f}, {rate}"
        logger.info(
            "iteration %d/%d  eta %s  %s  lr %.2e  %s  step %.3f s (%s)",
            trainer.iteration,
            trainer.max_iter,
            remaining,
            numbers,
            scalars["lr"],
            rate,
            scalars["time"],
            ", ".join(f"{name} {scalars[f'{name}_time']:.3f}" for name in PHASES if f"{name}_time" in scalars),
            extra=FILE_ONLY if self._bar is not None else None,
        )

    def _remaining(self, trainer: Trainer, seconds_of_a_step: float) -> timedelta:
        """The remaining time of the training, in whole seconds."""
        between_steps = (time.perf_counter() - self._started - self._all_seconds) / max(self._all_steps, 1)
        seconds = (trainer.max_iter - trainer.iteration) * (seconds_of_a_step + max(between_steps, 0.0))
        return timedelta(seconds=round(seconds))

    def _scalars(self, trainer: Trainer) -> tuple[dict[str, float], dict[str, float]]:
        """The means since the last line over the steps of all processes, and those of `log_scalar` separately."""
        local = self.state.losses.means(), self.state.scalars.means(), self._images / self._seconds
        gathered = distributed.all_gather_objects(local)
        losses, user_scalars = (
            _means([losses for losses, _, _ in gathered]),
            _means([user_scalars for _, user_scalars, _ in gathered]),
        )
        scalars = {
            "total_loss": sum(losses.values()),
            **losses,
            "lr": max(group["lr"] for group in trainer.optimizer.param_groups),
            "time": self._seconds / self._steps,
            "data_time": self._data_seconds / self._steps,
            **{f"{name}_time": seconds / self._steps for name, seconds in trainer.phases.take().items()},
            "images_per_second": sum(rate for _, _, rate in gathered),
        }
        if trainer.grad_norm is not None:
            scalars["grad_norm"] = float(trainer.grad_norm)
        if trainer.device.type == "cuda":
            scalars["memory_mb"] = torch.cuda.max_memory_allocated(trainer.device) / 2**20
        conflicts = [name for name in user_scalars if name in scalars or name == "iteration"]
        if conflicts:
            raise ValueError(
                f"log_scalar({conflicts[0]!r}): the log already has a number of that name; use another name"
            )
        return scalars, user_scalars


def _shows_a_bar() -> bool:
    """Whether standard error is a terminal with a width. Some pseudo-terminals have no width and cannot show a bar."""
    if not sys.stderr.isatty():
        return False
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, io.UnsupportedOperation):
        return True


def _main_losses(scalars: dict[str, float]) -> list[str]:
    """The total and the main losses: `loss_class`, but not its variants such as `loss_class_0` or `loss_class_dn`."""
    losses = [name for name in scalars if name.startswith("loss")]
    return ["total_loss", *(n for n in losses if not any(n.startswith(f"{base}_") for base in losses))]


def _means(records: Sequence[dict[str, float]]) -> dict[str, float]:
    """name -> mean over the records that have it."""
    names = dict.fromkeys(name for record in records for name in record)
    means = {}
    for name in names:
        values = [record[name] for record in records if name in record]
        means[name] = sum(values) / len(values)
    return means
