"""What is tried out with a config before it is trained: its data, its learning rate, its batch, whether it can learn.

Each takes a config as `train` does, in one process, and leaves no run behind.
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
