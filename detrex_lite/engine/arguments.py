"""The command line of programs that train: detectron2's flags."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from .. import distributed


def default_argument_parser(description: str | None = None) -> argparse.ArgumentParser:
    """A parser of detectron2's flags and of config overrides.

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
    parser.add_argument("--num-gpus", type=int, default=1, help="processes per machine (with train.device=cpu too)")
    parser.add_argument("--num-machines", type=int, default=1, help="machines that take part")
    parser.add_argument("--machine-rank", type=int, default=0, help="this machine's number, from 0")
    parser.add_argument("--dist-url", default="auto", help="tcp://host:port of machine 0, for several machines")
    parser.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="config overrides")
    return parser


def load_config(args: argparse.Namespace) -> Any:
    """The config that the arguments name, with their overrides.

    Raises:
        ConfigError: when there is no such file, or an override is wrong.
    """
    from ..config import LazyConfig

    return LazyConfig.apply_overrides(LazyConfig.load(args.config_file), args.opts)


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Inside, faults of configs and checkpoints end the program with a message, status 2 and no traceback."""
    from ..checkpoint import CheckpointError
    from ..config import ConfigError

    try:
        yield
    except (ConfigError, CheckpointError) as error:
        if distributed.is_main_process():
            print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
