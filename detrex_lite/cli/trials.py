"""Options of `detrex-lite train` that try something out instead of training."""

import argparse

from .parser import whole_number

OVERFIT_STEPS = 500


def add_trial_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --dry-run, --overfit, --find-lr and --find-batch-size, of which one may be given."""
    group = parser.add_argument_group("try out, and train nothing that stays")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, say what would be trained, draw the first batches as the model gets them",
    )
    choice.add_argument(
        "--overfit",
        type=whole_number(1),
        metavar="N",
        help="train on N images without augmentation, evaluate on the same, and say whether they can be learnt",
    )
    choice.add_argument("--find-lr", action="store_true", help="raise the learning rate step by step, and advise one")
    choice.add_argument(
        "--find-batch-size", action="store_true", help="measure the largest batch that fits into the memory"
    )
    group.add_argument(
        "--overfit-steps",
        type=whole_number(10),
        default=OVERFIT_STEPS,
        metavar="N",
        help=f"of --overfit, at most (default: {OVERFIT_STEPS})",
    )


def is_trial(args: argparse.Namespace) -> bool:
    """Whether one of the options of this module is given."""
    return bool(args.dry_run or args.overfit or args.find_lr or args.find_batch_size)


def check_trial(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the program as after any wrong argument when a trial is asked for together with what it has no use for."""
    if not is_trial(args):
        if args.overfit_steps != OVERFIT_STEPS:
            parser.error("--overfit-steps needs --overfit N")
        return
    for option, given in (
        ("--resume", args.resume),
        ("--eval-only", args.eval_only),
        ("--num-gpus above 1", args.num_gpus > 1 or args.num_machines > 1),
        ("--engine detectron2", args.engine == "detectron2"),
    ):
        if given:
            parser.error(f"{option} does not go together with --dry-run, --overfit, --find-lr and --find-batch-size")
