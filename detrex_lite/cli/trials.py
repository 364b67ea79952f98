"""Options of `detrex-lite train` for trials: short experiments instead of training."""

import argparse

from .parser import whole_number

OVERFIT_STEPS = 500


def add_trial_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --dry-run, --overfit, --find-lr and --find-batch-size, which exclude each other."""
    group = parser.add_argument_group("trials, which save no trained model")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, summarise the training, draw the first batches as the model receives them",
    )
    choice.add_argument(
        "--overfit",
        type=whole_number(1),
        metavar="N",
        help="train and evaluate on N images without augmentation, and report whether they can be learnt",
    )
    choice.add_argument("--find-lr", action="store_true", help="raise the learning rate step by step, and suggest one")
    choice.add_argument(
        "--find-batch-size", action="store_true", help="measure the largest batch size that fits in memory"
    )
    group.add_argument(
        "--overfit-steps",
        type=whole_number(10),
        default=OVERFIT_STEPS,
        metavar="N",
        help=f"largest number of steps of --overfit (default: {OVERFIT_STEPS})",
    )


def is_trial(args: argparse.Namespace) -> bool:
    """Whether the arguments include a trial."""
    return bool(args.dry_run or args.overfit or args.find_lr or args.find_batch_size)


def check_trial(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Report a wrong argument when a trial is combined with options that do not apply to it."""
    if not is_trial(args):
        if args.overfit_steps != OVERFIT_STEPS:
            parser.error("--overfit-steps needs --overfit N")
        return
    for option, is_given in (
        ("--resume", args.resume),
        ("--eval-only", args.eval_only),
        ("--num-gpus above 1", args.num_gpus > 1 or args.num_machines > 1),
        ("--engine detectron2", args.engine == "detectron2"),
    ):
        if is_given:
            parser.error(f"{option} does not go together with --dry-run, --overfit, --find-lr and --find-batch-size")
