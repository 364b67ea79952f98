"""Restarts the average of the weights from the best checkpoint, with another decay (D-FINE, DEIM)."""

import logging
import shutil
from pathlib import Path

from ... import distributed
from ...checkpoint import CheckpointError, read_checkpoint
from ...checkpoint.files import atomic_file
from ..io.state import TrainingState
from .ema import ModelEma
from .hooks import flatten
from .trainer import Hook, Trainer

logger = logging.getLogger(__name__)

BEFORE_RESTART = "model_before_restart"


class EmaRestart(Hook):
    """Goes back to the best checkpoint at a given step, and changes the decay of the average.

    The best checkpoint is kept as `model_before_restart`. From then on each evaluation is compared with the best value
    so far; after another return, the first value since then is the new best. When an evaluation is not better, the
    decay is lowered and the run returns to the same checkpoint again. The weights, their average and the optimizer's
    state are restored; the data and the learning rate continue.

    In the published code of D-FINE and DEIM the new decay has no effect, because the average keeps a function that was
    built with the first decay. To reproduce it, set `decay` to that of the average and `decay_step=0`.

    Args:
        ema: the average.
        state: the state of the run, which is saved and loaded.
        output_dir: the folder of the checkpoints.
        iteration: the run goes back before the step that follows this iteration.
        metric: the result to compare, as group/name; higher is better.
        eval_period: steps between two evaluations.
        decay: the decay of the average after the restart.
        decay_step: how much the decay is lowered, but not below 0, after an evaluation that is not better.
    """

    def __init__(
        self,
        ema: ModelEma,
        state: TrainingState,
        *,
        output_dir: Path,
        iteration: int,
        metric: str,
        eval_period: int,
        decay: float,
        decay_step: float,
    ):
        self.ema = ema
        self.state = state
        self.output_dir = output_dir
        self.iteration = iteration
        self.metric = metric
        self.eval_period = eval_period
        self.decay = decay
        self.decay_step = decay_step

    def before_train(self, trainer: Trainer) -> None:
        if trainer.iteration <= self.iteration:
            return
        if self.state.ema_restart is None:
            logger.warning("The run is past train.model_ema.restart.epoch without a restart: it goes on without one.")
        else:
            self._set_decay()

    def before_step(self, trainer: Trainer) -> None:
        """Go back if it is time. The results of this iteration's evaluation are known by now, also after a resume."""
        stored = self.state.ema_restart
        if trainer.iteration == self.iteration:
            # The checkpoint of this iteration was saved before the restart, so a run resumed here goes back as well.
            best = self.state.best
            self._keep_best()
            self.state.ema_restart = {"times": 0, "value": None if best is None else best["value"]}
            self._go_back(trainer)
        elif stored is not None and trainer.iteration > self.iteration and trainer.iteration % self.eval_period == 0:
            value = flatten(trainer.results).get(self.metric, float("nan"))
            if stored["value"] is None or value > stored["value"]:
                self.state.ema_restart = {**stored, "value": value}
            else:
                self.state.ema_restart = {"times": stored["times"] + 1, "value": None}
                self._go_back(trainer)

    def _set_decay(self) -> None:
        assert self.state.ema_restart is not None
        self.ema.decay = max(0.0, self.decay - self.decay_step * self.state.ema_restart["times"])

    def _go_back(self, trainer: Trainer) -> None:
        path = self.output_dir / f"{BEFORE_RESTART}.pth"
        self.state.go_back(path)
        self._set_decay()
        logger.info(
            "Iteration %d: the weights go back to those of %s; their average has decay %g.",
            trainer.iteration,
            path,
            self.ema.decay,
        )

    def _keep_best(self) -> None:
        """Copy the best checkpoint, because later ones will overwrite `model_best`."""
        if self.state.best is None:
            logger.warning(
                "No evaluation found a best model before train.model_ema.restart.epoch: the current weights are used."
            )
            self.state.save(BEFORE_RESTART)
            return
        copy, best = (self.output_dir / f"{name}.pth" for name in (BEFORE_RESTART, "model_best"))
        iteration = self.state.best["iteration"]

        def keep() -> None:
            if _iteration(best) != iteration:
                if _iteration(copy) == iteration:  # the run was further along, and was resumed from before the restart
                    return
                raise CheckpointError(
                    f"{best} is not the best model so far, that of iteration {iteration}, to which the run must go "
                    "back: train.model_ema.restart.epoch=null goes on without a restart"
                )
            with best.open("rb") as source, atomic_file(copy) as target:
                shutil.copyfileobj(source, target)

        distributed.from_main_process(keep)


def _iteration(path: Path) -> int | None:
    """The iteration of a checkpoint; None when the file does not exist."""
    return read_checkpoint(path).get("iteration") if path.exists() else None
