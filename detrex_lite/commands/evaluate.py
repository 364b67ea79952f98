"""Evaluating trained weights."""

import argparse

from .train import start_processes


def run(args: argparse.Namespace) -> int:
    """Evaluate; see `detrex_lite.cli.evaluate`."""
    args.eval_only = True
    args.opts = [*args.opts, f"train.init_checkpoint={args.weights}"]
    if args.output:
        args.opts.append(f"train.output_dir={args.output}")
    start_processes(args)
    return 0
