"""Trials: short experiments instead of training."""

import argparse
from typing import Any

from ..engine.trials import dry_run, find_batch_size, find_learning_rate, overfit


def run_trial(args: argparse.Namespace, cfg: Any) -> int:
    """Run the trial that an option of `detrex_lite.cli.trials` selects.

    Returns:
        The exit status: 0, or 1 when the images were not learnt, no learning rate works, or no batch fits.
    """
    if args.dry_run:
        dry_run(cfg)
        return 0
    if args.overfit:
        return 0 if overfit(cfg, args.overfit, steps=args.overfit_steps).learnt else 1
    if args.find_lr:
        return 1 if find_learning_rate(cfg).suggested is None else 0
    return 0 if find_batch_size(cfg).images else 1
