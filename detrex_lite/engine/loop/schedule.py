"""Learning rate multipliers: functions of training progress in [0, 1], independent of a run's length.

They are fvcore parameter schedulers, so that detectron2's engine can use them too.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)


class WarmupParamScheduler(ParamScheduler):
    """Begins with a linear warm-up and continues with `scheduler` at the progress reached by then.

    Args:
        scheduler: the multiplier as a function of progress in [0, 1].
        warmup_length: the fraction of training that the warm-up takes, in [0, 1).
        warmup_factor: the multiplier at the start, relative to that of `scheduler` at the start.

    Raises:
        ValueError: when `warmup_length` is not in [0, 1).
    """

    def __init__(self, scheduler: ParamScheduler, *, warmup_length: float, warmup_factor: float = 0.001):
        if not 0 <= warmup_length < 1:
            raise ValueError(f"warmup_length={warmup_length} is a fraction of training and must be in [0, 1)")
        self.scheduler = scheduler
        self.warmup_length = warmup_length
        self.warmup_factor = warmup_factor

    def __call__(self, where: float) -> float:
        if where >= self.warmup_length:
            return self.scheduler(where)
        start, end = self.warmup_factor * self.scheduler(0.0), self.scheduler(self.warmup_length)
        return start + (end - start) * where / self.warmup_length


def multi_step(
    *,
    epochs: float,
    milestones: Sequence[float],
    gamma: float = 0.1,
    warmup_length: float = 0.0,
    warmup_factor: float = 0.001,
) -> ParamScheduler:
    """A multiplier that starts at 1 and is multiplied by `gamma` at each milestone.

    Args:
        epochs: the length of training that `milestones` refer to. Only the ratios matter: in a run of another length
            the drops are at the same fractions of training.
        milestones: increasing, between 0 and `epochs`, in the same unit.
        gamma: factor at each milestone.
        warmup_length: fraction of training with a linear warm-up.
        warmup_factor: multiplier at the start of the warm-up.

    Raises:
        ValueError: when the milestones do not increase or are not inside (0, epochs), or `warmup_length` is not in
            [0, 1).
    """
    bounds = [0, *milestones, epochs]
    if any(after <= before for before, after in pairwise(bounds)):
        raise ValueError(f"milestones={list(milestones)} must increase and lie between 0 and epochs={epochs}")
    # fvcore counts whole steps; at this resolution milestones may be fractions of an epoch.
    resolution = 1 if all(float(bound).is_integer() for bound in bounds) else 1000
    scheduler: ParamScheduler = MultiStepParamScheduler(
        values=[gamma**drops for drops in range(len(milestones) + 1)],
        num_updates=max(round(epochs * resolution), len(milestones) + 1),
        milestones=[round(milestone * resolution) for milestone in milestones],
    )
    if warmup_length == 0:
        return scheduler
    return WarmupParamScheduler(scheduler, warmup_length=warmup_length, warmup_factor=warmup_factor)


def constant(*, warmup_length: float = 0.0, warmup_factor: float = 0.001) -> ParamScheduler:
    """A multiplier of 1 after a linear warm-up, as in RT-DETR, D-FINE and LW-DETR.

    Args:
        warmup_length: fraction of training with a linear warm-up.
        warmup_factor: multiplier at the start of the warm-up.

    Raises:
        ValueError: when `warmup_length` is not in [0, 1).
    """
    return WarmupParamScheduler(ConstantParamScheduler(1.0), warmup_length=warmup_length, warmup_factor=warmup_factor)


class FlatCosineParamScheduler(ParamScheduler):
    """A quadratic warm-up, then 1, then a cosine down to `end_factor`, which is kept; see `flat_cosine`.

    Args:
        warmup, flat, end: the fractions of training at which each phase ends, in order, in [0, 1].
        end_factor: the final multiplier.
    """

    def __init__(self, *, warmup: float, flat: float, end: float, end_factor: float):
        self.warmup, self.flat, self.end = warmup, flat, end
        self.end_factor = end_factor

    def __call__(self, where: float) -> float:
        if where < self.warmup:
            return (where / self.warmup) ** 2
        if where <= self.flat:
            return 1.0
        if where >= self.end:
            return self.end_factor
        progress = (where - self.flat) / (self.end - self.flat)
        return self.end_factor + (1 - self.end_factor) * (1 + math.cos(math.pi * progress)) / 2


def flat_cosine(
    *,
    epochs: float,
    flat_epochs: float,
    final_epochs: float,
    end_factor: float = 0.5,
    warmup_epochs: float = 0.0,
) -> ParamScheduler:
    """The schedule of DEIM (Huang et al., CVPR 2025): a quadratic warm-up, 1, then a cosine down to `end_factor`.

    The last phase stays at `end_factor`. Only the ratios of the lengths matter: in a run of another length the phases
    end at the same fractions of training.

    Args:
        epochs: the length of training that the other lengths refer to.
        flat_epochs: where the multiplier begins to fall, counted from the start.
        final_epochs: how long the multiplier stays at `end_factor` at the end.
        end_factor: the final multiplier.
        warmup_epochs: how long the multiplier rises from 0, as the square of the progress of the warm-up.

    Raises:
        ValueError: when lengths are negative or do not fit into each other, or `end_factor` is not in 0..1.
    """
    if not 0 <= warmup_epochs <= flat_epochs <= epochs - final_epochs <= epochs or epochs <= 0:
        raise ValueError(
            f"warmup_epochs={warmup_epochs}, flat_epochs={flat_epochs} and final_epochs={final_epochs} must follow "
            f"each other within epochs={epochs}: 0 <= warmup_epochs <= flat_epochs <= epochs - final_epochs"
        )
    if not 0 <= end_factor <= 1:
        raise ValueError(f"end_factor={end_factor} must be in 0..1")
    return FlatCosineParamScheduler(
        warmup=warmup_epochs / epochs,
        flat=flat_epochs / epochs,
        end=(epochs - final_epochs) / epochs,
        end_factor=end_factor,
    )


def one_cycle(*, warmup_length: float = 0.05, start_factor: float = 0.01, end_factor: float = 0.0) -> ParamScheduler:
    """Rises linearly from `start_factor` to 1 and falls along a cosine to `end_factor`.

    The shape is that of Smith and Topin (https://arxiv.org/abs/1708.07120), without the momentum cycle. It suits short
    trainings from scratch.

    Args:
        warmup_length: the fraction of training that the rise takes, in (0, 1).
        start_factor: multiplier at the start.
        end_factor: multiplier at the end.

    Raises:
        ValueError: when `warmup_length` is not in (0, 1).
    """
    if not 0 < warmup_length < 1:
        raise ValueError(f"warmup_length={warmup_length} is a fraction of training and must be in (0, 1)")
    return CompositeParamScheduler(
        [LinearParamScheduler(start_factor, 1.0), CosineParamScheduler(1.0, end_factor)],
        lengths=[warmup_length, 1 - warmup_length],
        interval_scaling=["rescaled", "rescaled"],
    )
