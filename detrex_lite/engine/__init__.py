"""Training and evaluation of a config.

`loop` contains the training loop and its hooks, `processes` the communication and control of the processes of a run,
`io` the files and logs that a run writes, and `trials` short experiments before a training.
"""

from .arguments import clear_errors, device_of, find_engine
from .loop.ema import ModelEma
from .loop.matching_stability import MatchingStability
from .loop.optim import adamw, get_param_groups
from .loop.schedule import WarmupParamScheduler, constant, flat_cosine, multi_step, one_cycle
from .loop.trainer import Hook, Trainer
from .processes.failures import LostProcessError
from .processes.launch import launch
from .processes.signals import end_when_interrupted
from .run import evaluate, train

__all__ = [
    "Hook",
    "LostProcessError",
    "MatchingStability",
    "ModelEma",
    "Trainer",
    "WarmupParamScheduler",
    "adamw",
    "clear_errors",
    "constant",
    "device_of",
    "end_when_interrupted",
    "evaluate",
    "find_engine",
    "flat_cosine",
    "get_param_groups",
    "launch",
    "multi_step",
    "one_cycle",
    "train",
]
