"""Training and evaluation: the loop and its hooks, optimizers and schedules, processes, the command line."""

from .arguments import clear_errors, default_argument_parser, find_engine, load_config
from .ema import ModelEma
from .failures import LostProcessError
from .optim import adamw, get_param_groups
from .processes import launch
from .run import evaluate, train
from .schedule import WarmupParamScheduler, multi_step, one_cycle
from .trainer import Hook, Trainer

__all__ = [
    "Hook",
    "LostProcessError",
    "ModelEma",
    "Trainer",
    "WarmupParamScheduler",
    "adamw",
    "clear_errors",
    "default_argument_parser",
    "evaluate",
    "find_engine",
    "get_param_groups",
    "launch",
    "load_config",
    "multi_step",
    "one_cycle",
    "train",
]
