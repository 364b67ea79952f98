"""Logs how stable the matching of queries and objects is during training."""

import copy
from typing import Any

import numpy as np
from torch import nn

from ...analysis.inspection import kept_share
from ...analysis.queries import match_layers
from ...modeling import Detector
from .trainer import Hook, Trainer


class MatchingStability(Hook):
    """Logs the fraction of objects that keep their query between decoder layers, and between measurements.

    The first training images are kept, and are matched again every `period` steps, in evaluation mode. The log gets

    - `matching_kept_since_last`: the fraction of objects that the last layer matches to the same query as in the
      previous measurement. One minus this is the instability of DN-DETR (Li et al., CVPR 2022, section 3.2).
    - `matching_kept_layer_0`, ...: the fraction of objects that this layer matches to the same query as the last layer.

    In two-stage detectors the index of a query is its rank among the proposals, which changes by itself.

    Args:
        period: steps between two measurements; an epoch gives numbers comparable to those of the paper.
        num_images: the number of images that each process keeps.

    Raises:
        ValueError: when `period` or `num_images` is below 1.
    """

    def __init__(self, *, period: int, num_images: int = 16):
        if period < 1 or num_images < 1:
            raise ValueError(f"period={period} and num_images={num_images} must be at least 1")
        self.period = period
        self.num_images = num_images
        self._records: list[dict[str, Any]] = []
        self._last: np.ndarray | None = None
        self._handle: Any = None

    def before_train(self, trainer: Trainer) -> None:
        self._handle = trainer.model.register_forward_pre_hook(self._keep)

    def _keep(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        if model.training and len(self._records) < self.num_images:
            missing = self.num_images - len(self._records)
            self._records += [copy.deepcopy(record) for record in args[0][:missing] if "instances" in record]

    def after_step(self, trainer: Trainer) -> None:
        if trainer.iteration % self.period or not self._records:
            return
        model: Any = getattr(trainer.model, "module", trainer.model)
        if not isinstance(model, Detector):
            raise ValueError(f"MatchingStability is for detectors of this library, not for a {type(model).__name__}")
        queries = match_layers(model, self._records)
        if self._last is not None:
            _add(trainer, "matching_kept_since_last", float(kept_share(self._last, queries[-1])))
        for number, fraction in enumerate(kept_share(queries[:-1], queries[-1])):
            _add(trainer, f"matching_kept_layer_{number}", float(fraction))
        self._last = queries[-1]

    def close(self) -> None:
        if self._handle is not None:
            self._handle.remove()


def _add(trainer: Trainer, name: str, fraction: float) -> None:
    if not np.isnan(fraction):
        trainer.scalars.add(name, fraction)
