"""Training and evaluation: the way from a config to a run, and from a command line to a config.

`loop` has the steps and what happens between them, `processes` what the processes of a run share, `io` what it writes.
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
