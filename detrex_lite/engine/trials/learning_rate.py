"""Finds suitable learning rates by raising the rate from step to step (Smith, WACV 2017)."""

import logging
import math
from typing import NamedTuple

import numpy as np
from omegaconf import DictConfig

from ...config import ConfigError
from ...errors import NonFiniteError
from ..loop.trainer import Hook, Trainer
from .trial import build_trainer, trial

logger = logging.getLogger(__name__)

LOWEST, HIGHEST, STEPS = 1e-7, 1e-1, 100
SMOOTHING = 0.8  # decay of the running mean of the loss that detects divergence
DIVERGED = 2.0  # the search ends when the running mean exceeds its lowest value by this factor
WINDOW = 0.04  # standard deviation of the smoothing of losses, as a fraction of the steps
FALLEN = 0.97  # the loss has fallen when it is below this fraction of the loss at the lowest rates
BELOW_LOWEST = 10.0  # ratio of the rate with the lowest loss to the suggested rate
ROWS, WIDTH = 16, 40  # of the printed chart


class LearningRates(NamedTuple):
    """The result of a search.

    Attributes:
        rates: values of `optimizer.lr`, in the order of the steps.
        losses: the total loss at each rate, averaged over neighbouring steps.
        suggested: a rate to train with: a tenth of the rate with the lowest loss, but at most `steepest`; None when the
            loss never fell.
        steepest: the rate at which the loss fell fastest.
    """

    rates: list[float]
    losses: list[float]
    suggested: float | None
    steepest: float | None

    def __str__(self) -> str:
        """A chart of the loss over the rate, and advice."""
        shown = np.unique(np.linspace(0, len(self.rates) - 1, ROWS).round().astype(int)).tolist() if self.rates else []
        losses = [self.losses[index] for index in shown]
        low, high = (min(losses), max(losses)) if losses else (0.0, 0.0)
        lines = ["optimizer.lr   loss"]
        for index, loss in zip(shown, losses, strict=True):
            bar = "#" * round(WIDTH * (loss - low) / max(high - low, 1e-12))
            lines.append(f"{self.rates[index]:12.2e}   {loss:<10.4g} {bar}")
        if self.suggested is None:
            lines.append("The loss never fell clearly: look at the data (--dry-run), or try more steps.")
        else:
            lines += [
                f"The loss falls fastest at {self.steepest:.1e}. To begin with: optimizer.lr={self.suggested:.1e}",
                "This holds for this batch, these weights and this precision; groups of parameters keep their ratios.",
            ]
        return "\n".join(lines)


class _Sweep(Hook):
    """Sets the rate of each step, records the losses, and ends the search when they diverge."""

    def __init__(self, trainer: Trainer, rates: list[float], base: float):
        self.rates = rates
        self.factors = [group["lr"] / base for group in trainer.optimizer.param_groups]
        self.losses: list[float] = []
        self._mean: float | None = None
        self._least = math.inf

    def before_step(self, trainer: Trainer) -> None:
        for group, factor in zip(trainer.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = self.rates[trainer.iteration] * factor

    def after_step(self, trainer: Trainer) -> None:
        loss = float(sum(trainer.losses.values()))
        self.losses.append(loss)
        self._mean = loss if self._mean is None else SMOOTHING * self._mean + (1 - SMOOTHING) * loss
        self._least = min(self._least, self._mean)
        if self._mean > DIVERGED * self._least:
            trainer.end_early()


def find_learning_rate(
    cfg: DictConfig, *, lowest: float = LOWEST, highest: float = HIGHEST, steps: int = STEPS
) -> LearningRates:
    """Train a few steps at rates that rise from `lowest` to `highest` by the same factor, until the loss diverges.

    Args:
        cfg: a config as `train` takes it, with `optimizer.lr`. The result holds for its batch, weights and precision.
        lowest, highest: the range of `optimizer.lr`.
        steps: the number of steps.

    Raises:
        ConfigError: for a config that `train` rejects, and for an empty range.
    """
    if not 0 < lowest < highest or steps < 2:
        raise ConfigError(f"lowest={lowest}, highest={highest}, steps={steps} is not a range of learning rates")
    rates = np.geomspace(lowest, highest, steps).tolist()
    with trial(cfg) as run:
        trainer = build_trainer(run, max_iter=steps, hooks=[])
        sweep = _Sweep(trainer, rates, base=float(run.cfg.optimizer.lr))
        trainer.hooks = [sweep]
        logger.info("Trying learning rates from %.0e to %.0e in %d steps.", lowest, highest, steps)
        try:
            trainer.train()
        except NonFiniteError:
            logger.info("The loss is not finite at optimizer.lr=%.1e.", rates[trainer.iteration])
        result = _judge(rates[: len(sweep.losses)], sweep.losses)
        logger.info("%s", result)
    return result


def _judge(rates: list[float], losses: list[float]) -> LearningRates:
    """Find the suggested and the steepest rate from the loss of each step."""
    smooth = _smoothed(np.asarray(losses))
    first = len(smooth) // 5  # rates too low to have an effect: their losses differ only because the images do
    if first < 1 or smooth[first:].min() > FALLEN * np.median(smooth[:first]):
        return LearningRates(rates, smooth.tolist(), None, None)
    best = first + int(smooth[first:].argmin())
    descent = np.gradient(smooth, np.log(rates))[first : best + 1]
    steepest = rates[first + int(descent.argmin())]
    suggested = min(rates[best] / BELOW_LOWEST, steepest)
    return LearningRates(rates, smooth.tolist(), float(f"{suggested:.1g}"), steepest)


def _smoothed(losses: np.ndarray) -> np.ndarray:
    """Average the losses of neighbouring steps with Gaussian weights, as the loss varies with the images of a batch."""
    steps = np.arange(len(losses))
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / (WINDOW * max(len(losses), 1))) ** 2)
    return weights @ losses / weights.sum(axis=1)
