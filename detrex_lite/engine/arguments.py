"""The command line of programs that train: detectron2's flags, and the choice of the engine."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .. import distributed
from ..checkpoint import CheckpointError
from ..config import ConfigError, LazyConfig, explain, get_config, trust
from ..config.trusted import add_trust_argument
from ..data import DatasetError
from ..data.detectron2_catalog import INSTALL_DETECTRON2
from .io.folder import LostFolderError
from .run import evaluate, train

ENGINES = ("detrex_lite", "detectron2")


def default_argument_parser(description: str | None = None) -> argparse.ArgumentParser:
    """A parser of detectron2's flags, `--engine`, and config overrides.

    Use `parse_intermixed_args`, so that overrides may stand before and after flags.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog="Overrides change the config: train.max_iter=10 model.num_queries=50 +new.key=1. "
        "`python -m detrex_lite.config FILE [overrides]` prints the result.",
    )
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a LazyConfig .py or .yaml file")
    parser.add_argument("--resume", action="store_true", help="go on with the run in train.output_dir")
    parser.add_argument("--eval-only", action="store_true", help="evaluate train.init_checkpoint, do not train")
    parser.add_argument(
        "--num-gpus",
        "--num-processes",
        type=int,
        default=1,
        dest="num_gpus",
        metavar="N",
        help="processes per machine: one per GPU, or with train.device=cpu any number",
    )
    parser.add_argument("--num-machines", type=int, default=1, help="machines that take part")
    parser.add_argument("--machine-rank", type=int, default=0, help="this machine's number, from 0")
    parser.add_argument("--dist-url", default="auto", help="tcp://host:port of machine 0, for several machines")
    add_trust_argument(parser)
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help="what trains and evaluates")
    parser.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="config overrides")
    return parser


def load_config(args: argparse.Namespace) -> Any:
    """The config that the arguments name, with their overrides; what `--trust` names is trusted from here on.

    Raises:
        ConfigError: when there is no such file, or an override is wrong.
    """
    trust(*args.trust)
    return LazyConfig.apply_overrides(LazyConfig.load(args.config_file), args.opts)


def device_of(cfg: Any) -> str:
    """`train.device`, or its default where the config has none, or is so faulty that the run will say so."""
    try:
        device = OmegaConf.select(cfg, "train.device")
    except OmegaConfBaseException:
        device = None
    return device if isinstance(device, str) else get_config("common/train.py").train.device


def find_engine(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The functions (train, evaluate) of one of `ENGINES`.

    Raises:
        ConfigError: when detectron2 is asked for and cannot be imported.
    """
    if name == "detrex_lite":
        return train, evaluate
    try:
        import detectron2.engine  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"--engine detectron2 needs detectron2 ({error}): {INSTALL_DETECTRON2}") from error
    from . import detectron2_engine

    return detectron2_engine.train, detectron2_engine.evaluate


@contextlib.contextmanager
def clear_errors(*, with_traceback: bool = False) -> Iterator[None]:
    """Inside, faults of configs, checkpoints and data end the program with status 2 and what `explain` says of them.

    So does the loss of the output folder, with status 1.
    """
    try:
        yield
    except (ConfigError, CheckpointError, DatasetError, LostFolderError) as error:
        # Under torchrun the first process of each machine speaks: a file may be missing on one of them only. Images
        # are read by one process alone.
        local_rank = os.environ.get("LOCAL_RANK")
        is_alone = local_rank is not None and isinstance(error, DatasetError)
        if distributed.is_main_process() or local_rank == "0" or is_alone:
            print(explain(error, with_traceback=with_traceback), file=sys.stderr)
        raise SystemExit(1 if isinstance(error, LostFolderError) else 2) from None
