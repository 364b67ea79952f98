"""The hooks of training, except those for logging and signals."""

import logging
import math
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
    """Sets the learning rate of each group to its initial value times a multiplier that depends on the progress.

    Args:
        optimizer: the optimizer; the current learning rates of its groups are the initial values.
        multiplier: function of the fraction of training that is done, in [0, 1).
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
    """Ends the run when its folder is removed, before anything is written into a folder that has replaced it."""

    def __init__(self, output_dir: Path):
        self.output_dir = output_dir

    def after_step(self, trainer: Trainer) -> None:
        require_owned(self.output_dir)

    def after_train(self, trainer: Trainer) -> None:
        require_owned(self.output_dir)


class EmaUpdate(Hook):
    """Updates the average of the weights after each step."""

    def __init__(self, ema: ModelEma):
        self.ema = ema

    def after_step(self, trainer: Trainer) -> None:
        self.ema.update()


class PeriodicCheckpoint(Hook):
    """Saves `model_<iteration>` every `period` steps (0: never) and `model_final` after the last one.

    When a hook ends training early, `model_final` is saved after training, because no step is known to be the last.

    After the first step, when the optimizer has its state, a checkpoint is written on trial.
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

    def after_train(self, trainer: Trainer) -> None:
        if trainer.ended_early:
            self.state.save("model_final")


class Evaluation(Hook):
    """Evaluates every `period` steps (0: never) and after the last one, and keeps the best checkpoint.

    It runs after the checkpoint of the same step has been saved, so that an error in the evaluation loses no progress.
    A run that is resumed from such a checkpoint repeats the evaluation if it was not finished.

    Args:
        evaluate: runs the evaluation; every process calls it.
        period: steps between two evaluations.
        metric: the result by which `model_best` is chosen, as group/name ("bbox/AP"); None keeps no best checkpoint.
        patience: training ends after this many evaluations in a row that do not improve on the best one before them;
            None: never.
        state: saves checkpoints and stores the best result.
        writers: receive the results; empty on all processes but the main one.
        metrics_file: contains the evaluations that were finished before this run was resumed.
        interruptible: a context in which a request to stop may end the evaluation early.
    """

    def __init__(
        self,
        evaluate: Callable[[], Results],
        *,
        period: int,
        metric: str | None,
        patience: int | None = None,
        state: TrainingState,
        writers: Sequence[Writer],
        metrics_file: Path,
        interruptible: Callable[[Trainer], AbstractContextManager[None]] = lambda trainer: nullcontext(),
    ):
        self.evaluate = evaluate
        self.period = period
        self.metric = metric
        self.patience = patience
        self.state = state
        self.writers = writers
        self.metrics_file = metrics_file
        self.interruptible = interruptible

    def before_train(self, trainer: Trainer) -> None:
        if trainer.iteration == 0:
            return
        if self._is_due(trainer):
            finished = distributed.broadcast_object(self._finished(trainer.iteration))
            if finished is None:
                self._run(trainer)
            else:
                trainer.results = finished
                self._compare_with_best(trainer)
        self._end_if_stagnant(trainer)

    def after_step(self, trainer: Trainer) -> None:
        if self._is_due(trainer):
            self._run(trainer)
            self._end_if_stagnant(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        at_period = self.period > 0 and trainer.iteration % self.period == 0
        return at_period or trainer.iteration == trainer.max_iter

    def _run(self, trainer: Trainer) -> None:
        with self.interruptible(trainer), preserved_random_states():
            results = distributed.broadcast_object(self.evaluate())
        trainer.results = results
        if self._compare_with_best(trainer):
            self.state.save("model_best")
        # This comes last, because a line in the metrics file means that all of the above is done.
        scalars = flatten(results)
        for writer in self.writers:
            writer.write(trainer.iteration, scalars)

    def _compare_with_best(self, trainer: Trainer) -> bool:
        """Whether the last results are the best so far. Stores them if so, and otherwise counts the stagnation."""
        value = self._value(trainer.results)
        if value is None:
            return False
        if self.state.best is None or value > self.state.best["value"]:
            self.state.best = {"metric": self.metric, "value": value, "iteration": trainer.iteration}
            self.state.stagnation = {"evaluations": 0, "iteration": trainer.iteration}
            logger.info("Best %s so far: %.3f at iteration %d.", self.metric, value, trainer.iteration)
            return True
        counted = self.state.stagnation or {"evaluations": 0, "iteration": None}
        if counted["iteration"] != trainer.iteration:  # a run may be resumed right after its evaluation was counted
            self.state.stagnation = {"evaluations": counted["evaluations"] + 1, "iteration": trainer.iteration}
        return False

    def _value(self, results: Results) -> float | None:
        """The value of `metric`; None when it is missing or not a number (as in an evaluation without objects)."""
        scalars = flatten(results)
        if not scalars or self.metric is None:
            return None
        if self.metric not in scalars:
            hint = did_you_mean(self.metric, scalars)
            logger.warning("No model_best.pth: the evaluation has no train.best_metric=%s%s", self.metric, hint)
            return None
        value = float(scalars[self.metric])
        return None if math.isnan(value) else value

    def _end_if_stagnant(self, trainer: Trainer) -> None:
        best, stagnation = self.state.best, self.state.stagnation
        if self.patience is None or best is None or stagnation is None or trainer.iteration >= trainer.max_iter:
            return
        if stagnation["evaluations"] >= self.patience:
            logger.info(
                "Early stopping after iteration %d of %d: in the last %d evaluations %s was never above %.3f, the "
                "value of iteration %d, whose weights are in model_best.pth (train.patience=%d; to go on, --resume "
                "with a larger one, or null).",
                trainer.iteration,
                trainer.max_iter,
                stagnation["evaluations"],
                best["metric"],
                best["value"],
                best["iteration"],
                self.patience,
            )
            trainer.end_early()

    def _finished(self, iteration: int) -> Results | None:
        """The results of this iteration's evaluation, if it was finished before the run was resumed."""
        if not self.metrics_file.exists():  # on other machines than that of the main process
            return None
        for record in read_metrics(self.metrics_file, skip_broken=True):
            if record["iteration"] == iteration and "total_loss" not in record:
                return unflatten({name: value for name, value in record.items() if name != "iteration"})
        return None


def flatten(results: Results) -> dict[str, float]:
    """{"bbox": {"AP": 1.0}} -> {"bbox/AP": 1.0}."""
    return {f"{group}/{name}": value for group, values in results.items() for name, value in values.items()}


def unflatten(scalars: dict[str, float | None]) -> Results:
    """The inverse of `flatten`; null, by which JSON replaces nan, becomes nan again."""
    results: Results = {}
    for key, value in scalars.items():
        group, _, name = key.partition("/")
        results.setdefault(group, {})[name] = float("nan") if value is None else value
    return results
