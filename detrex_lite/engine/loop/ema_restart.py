"""Beginning anew from the best weights so far, with another decay of their average (D-FINE, DEIM)."""

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
    """Goes back to the best checkpoint at a given step, which is kept as `model_before_restart`, and changes the decay.

    From then on each evaluation is compared with the best value so far, or after going back with the first value since
    then. One that is not better lowers the decay, and the run goes back to the same checkpoint again. Weights, their
    average and the optimizer's state go back; the data and the learning rate go on.

    In the published code of D-FINE and DEIM the new decay has no effect, as the average was given a function of the
    first one. `decay` equal to that of the average and `decay_step=0` are what it computes.

    Args:
        ema: the average.
        state: of the run, which is saved and loaded.
        output_dir: where checkpoints are.
        iteration: the step before which the run goes back.
        metric: the result that is compared, as group/name; more is better.
        eval_period: steps between two evaluations.
        decay: of the average from there on.
        decay_step: how much an evaluation that is not better lowers it, to 0 at least.
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
            logger.warning("The run is past train.model_ema.restart.epoch, and did not restart: it goes on without.")
        else:
            self._set_decay()

    def before_step(self, trainer: Trainer) -> None:
        """Go back, if it is time; what the evaluation of this iteration found is known by now, after a resume too."""
        memory = self.state.ema_restart
        if trainer.iteration == self.iteration:
            # Of this iteration only what was saved before is on disk: a run that is resumed here goes back as well.
            best = self.state.best
            self._keep_best()
            self.state.ema_restart = {"times": 0, "value": None if best is None else best["value"]}
            self._go_back(trainer)
        elif memory is not None and trainer.iteration > self.iteration and trainer.iteration % self.eval_period == 0:
            value = flatten(trainer.results).get(self.metric, float("nan"))
            if memory["value"] is None or value > memory["value"]:
                self.state.ema_restart = {**memory, "value": value}
            else:
                self.state.ema_restart = {"times": memory["times"] + 1, "value": None}
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
        """Keep the best checkpoint under its own name: later ones take the place of `model_best`."""
        if self.state.best is None:
            logger.warning(
                "No evaluation found a best model before train.model_ema.restart.epoch: the present is taken."
            )
            self.state.save(BEFORE_RESTART)
            return
        kept, best = (self.output_dir / f"{name}.pth" for name in (BEFORE_RESTART, "model_best"))
        iteration = self.state.best["iteration"]

        def keep() -> None:
            if _iteration(best) != iteration:
                if _iteration(kept) == iteration:  # a run that had gone further was resumed from before the restart
                    return
                raise CheckpointError(
                    f"{best} is not the best model so far, of iteration {iteration}, from which training is to go on: "
                    "train.model_ema.restart.epoch=null goes on without"
                )
            with best.open("rb") as source, atomic_file(kept) as target:
                shutil.copyfileobj(source, target)

        distributed.from_main_process(keep)


def _iteration(path: Path) -> int | None:
    """The iteration of a checkpoint; None when there is none."""
    return read_checkpoint(path).get("iteration") if path.exists() else None
