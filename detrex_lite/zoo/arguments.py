"""Which detector a command works with: the arguments that tools share."""

import argparse
from typing import Any

from ..config import LazyConfig, trust
from ..config.trusted import add_trust_argument
from ..inference import Predictor
from .predictor import load


def add_detector_arguments(parser: argparse.ArgumentParser) -> None:
    """--config-file and --weights, or --model; how far to trust them; --opts."""
    parser.add_argument("--config-file", metavar="FILE", help="config with the model and the test transform")
    parser.add_argument("--weights", metavar="FILE", help="checkpoint file; with --model, in place of the download")
    parser.add_argument("--model", metavar="NAME", help="a published model, in place of --config-file and --weights")
    parser.add_argument("--trusted", action="store_true", help="the weights may run code while they are read")
    add_trust_argument(parser)
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the config")


def require_detector(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the program as after any wrong argument, unless there is one detector."""
    if args.model and args.config_file:
        parser.error("--model has its own config: leave --config-file out, and change it with --opts")
    if not args.model and not (args.config_file and args.weights):
        parser.error("give --config-file and --weights, or the --model of a published one")


def predictor_of(args: argparse.Namespace, **settings: Any) -> Predictor:
    """The predictor that the arguments describe.

    Args:
        args: with those of `add_detector_arguments`.
        settings: of `Predictor`.
    """
    trust(*args.trust)
    settings["trusted"] = args.trusted
    if args.model:
        return load(args.model, weights=args.weights, overrides=args.opts, **settings)
    cfg = LazyConfig.apply_overrides(LazyConfig.load(args.config_file), args.opts)
    return Predictor(cfg, args.weights, **settings)
