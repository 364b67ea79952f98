"""What happens around the steps of training, besides logging and signals."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ... import distributed
from ...errors import did_you_mean
from ...metrics_file import read_metrics
from ..io.folder import require_owned
from ..io.state import TrainingState, checkpoint_name
from ..io.writers import Writer
from ..processes.random_states import preserved_random_states
from .ema import ModelEma
from .trainer import Hook, Trainer

logger = logging.getLogger(__name__)

Results = dict[str, dict[str, float]]


class LearningRate(Hook):
    """Sets each group's learning rate to its initial one times a multiplier of the progress.

    Args:
        optimizer: its groups' present learning rates are the initial ones.
        multiplier: function of the share of training that is done, in [0, 1).
    """

    def __init__(self, optimizer: Any, multiplier: Callable[[float], float]):
        self.multiplier = multiplier
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def before_step(self, trainer: Trainer) -> None:
        factor = self.multiplier(trainer.iteration / trainer.max_iter)
        for group in trainer.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor


class OwnFolder(Hook):
    """Ends the run when its folder is removed, before anything is written into another one at its place."""

    def __init__(self, output_dir: Path):
        self.output_dir = output_dir

    def after_step(self, trainer: Trainer) -> None:
        require_owned(self.output_dir)

    def after_train(self, trainer: Trainer) -> None:
        require_owned(self.output_dir)


class EmaUpdate(Hook):
    """Lets the average of the weights follow after each step."""

    def __init__(self, ema: ModelEma):
        self.ema = ema

    def after_step(self, trainer: Trainer) -> None:
        self.ema.update()


class PeriodicCheckpoint(Hook):
    """Saves `model_<iteration>` every `period` steps (0: never) and `model_final` after the last one.

    After the first step, when the optimizer has its state, saving is tried.
    """

    def __init__(self, state: TrainingState, period: int):
        self.state = state
        self.period = period

    def after_step(self, trainer: Trainer) -> None:
        if trainer.iteration == trainer.max_iter:
            self.state.save("model_final")
        elif self.period and trainer.iteration % self.period == 0:
            self.state.save(checkpoint_name(trainer.iteration))
        elif trainer.iteration == trainer.start_iteration + 1:
            self.state.try_saving()


class Evaluation(Hook):
    """Evaluates every `period` steps (0: never) and after the last one, and keeps the best checkpoint.

    It runs after the checkpoint of the same step was saved, so that a fault in it costs nothing. A run that
    is continued from such a checkpoint makes up for an evaluation that was not finished.

    Args:
        evaluate: runs the evaluation; every process calls it.
        period: steps between two evaluations.
        metric: the result by which `model_best` is chosen, as group/name: "bbox/AP"; None keeps no best one.
        state: to save, and to remember the best in.
        writers: where results go; empty on other processes than the main one.
        metrics_file: where evaluations that were finished before this run was continued are looked up.
        interruptible: a context in which a request to stop may end the evaluation early.
    """

    def __init__(
        self,
        evaluate: Callable[[], Results],
        *,
        period: int,
        metric: str | None,
        state: TrainingState,
        writers: Sequence[Writer],
        metrics_file: Path,
        interruptible: Callable[[Trainer], AbstractContextManager[None]] = lambda trainer: nullcontext(),
    ):
        self.evaluate = evaluate
        self.period = period
        self.metric = metric
        self.state = state
        self.writers = writers
        self.metrics_file = metrics_file
        self.interruptible = interruptible

    def before_train(self, trainer: Trainer) -> None:
        if trainer.iteration == 0 or not self._is_due(trainer):
            return
        finished = distributed.broadcast_object(self._finished(trainer.iteration))
        if finished is None:
            self._run(trainer)
        else:
            trainer.results = finished
            if self._is_best(finished):
                self._remember_best(trainer, finished)

    def after_step(self, trainer: Trainer) -> None:
        if self._is_due(trainer):
            self._run(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        at_period = self.period > 0 and trainer.iteration % self.period == 0
        return at_period or trainer.iteration == trainer.max_iter

    def _run(self, trainer: Trainer) -> None:
        with self.interruptible(trainer), preserved_random_states():
            results = distributed.broadcast_object(self.evaluate())
        trainer.results = results
        if self._is_best(results):
            self._remember_best(trainer, results)
            self.state.save("model_best")
        # Last: a line in the file says that all of this is done.
        scalars = flatten(results)
        for writer in self.writers:
            writer.write(trainer.iteration, scalars)

    def _is_best(self, results: Results) -> bool:
        scalars = flatten(results)
        if not scalars:
            return False
        if self.metric is None:
            return False
        if self.metric not in scalars:
            hint = did_you_mean(self.metric, scalars)
            logger.warning("No model_best.pth: the evaluation has no train.best_metric=%s%s", self.metric, hint)
            return False
        value = scalars[self.metric]
        # Not a number (no object to find) is never better.
        return value == value and (self.state.best is None or value > self.state.best["value"])

    def _remember_best(self, trainer: Trainer, results: Results) -> None:
        assert self.metric is not None
        value = float(flatten(results)[self.metric])
        self.state.best = {"metric": self.metric, "value": value, "iteration": trainer.iteration}
        logger.info("Best %s so far: %.3f at iteration %d.", self.metric, value, trainer.iteration)

    def _finished(self, iteration: int) -> Results | None:
        """The results of this iteration's evaluation, if it was finished before the run was continued."""
        if not self.metrics_file.exists():  # as on a machine without the main process
            return None
        for record in read_metrics(self.metrics_file, skip_broken=True):
            if record["iteration"] == iteration and "total_loss" not in record:
                return unflatten({name: value for name, value in record.items() if name != "iteration"})
        return None


def flatten(results: Results) -> dict[str, float]:
    """{"bbox": {"AP": 1.0}} -> {"bbox/AP": 1.0}."""
    return {f"{group}/{name}": value for group, values in results.items() for name, value in values.items()}


def unflatten(scalars: dict[str, float | None]) -> Results:
    """The inverse of `flatten`; null, JSON's word for not a number, becomes nan again."""
    results: Results = {}
    for key, value in scalars.items():
        group, _, name = key.partition("/")
        results.setdefault(group, {})[name] = float("nan") if value is None else value
    return results
