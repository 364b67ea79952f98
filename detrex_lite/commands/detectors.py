"""The detector that a command uses."""

import argparse
from typing import Any

from ..config import trust
from ..inference import Predictor
from ..zoo.predictor import load


def predictor_of(args: argparse.Namespace, **settings: Any) -> Predictor:
    """The predictor that the arguments describe.

    Args:
        args: include those of `detrex_lite.cli.arguments.add_detector_arguments`.
        settings: keyword arguments of `Predictor`.
    """
    trust(*args.trust)
    settings["trusted"] = args.trusted
    if args.model:
        return load(args.model, weights=args.weights, overrides=args.opts, **settings)
    return Predictor(args.config_file, args.weights, overrides=args.opts, **settings)
