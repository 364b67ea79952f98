"""Experiments with a config before it is trained: dry run, learning rate, batch size and overfitting a few images.

Each takes a config as `train` does, runs in one process, and leaves no run that could be resumed.
"""

from .batch_size import BatchSize, find_batch_size
from .dry_run import dry_run
from .learning_rate import LearningRates, find_learning_rate
from .overfit import Overfit, overfit

__all__ = [
    "BatchSize",
    "LearningRates",
    "Overfit",
    "dry_run",
    "find_batch_size",
    "find_learning_rate",
    "overfit",
]
