"""`detrex-lite average`."""

import argparse

from .arguments import add_traceback_argument, add_trust_argument

NAME = "average"
SUMMARY = "Average the weights of several checkpoints into one."
DESCRIPTION = """
The checkpoints must be of one run, or of runs that began with the same weights, and have the same classes. The names
and shapes of their tensors, and the values of integer tensors, must agree. The running mean of the weights (EMA) is
used if a checkpoint has one.

--greedy evaluates each checkpoint on the test set of its config, and chooses those that improve the average (Wortsman
et al., Model soups, ICML 2022). Overrides of the config may follow after --opts.

Exit status: 0 when the file was written, 2 when it was not.
"""
EXAMPLES = (
    ("the same weight for each", "output/model_0001999.pth output/model_0003999.pth --output average.pth"),
    ("an exponential mean, from the oldest to the newest", "output/model_0*.pth --ema 0.5 --output average.pth"),
    ("only those that help", "run1/model_best.pth run2/model_best.pth run3/model_best.pth --greedy --output soup.pth"),
)
RUN = "detrex_lite.commands.average.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", nargs="+", metavar="FILE", help="checkpoints, or folders of runs: the best of each")
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="output file: .pth, or .safetensors for tensors only"
    )
    method = parser.add_mutually_exclusive_group()
    method.add_argument(
        "--ema", type=float, metavar="DECAY", help="each further checkpoint keeps this fraction of the mean, 0..1"
    )
    method.add_argument("--greedy", action="store_true", help="choose the checkpoints that improve the average")
    parser.add_argument(
        "--last-weights", action="store_true", help="use the last weights, not their running mean (EMA)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument("--trusted", action="store_true", help="allow the checkpoints to run code while they are read")
    parser.add_argument(
        "--config-file",
        metavar="FILE",
        help="with --greedy, instead of the config inside or next to the first checkpoint",
    )
    add_trust_argument(parser)
    add_traceback_argument(parser)
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the config")


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if not args.greedy and (args.config_file or args.opts):
        parser.error("--config-file and --opts require --greedy: a plain average needs no config")
    if args.ema is not None and not 0 <= args.ema < 1:
        parser.error(f"--ema {args.ema:g}: the decay must be at least 0 and below 1")
