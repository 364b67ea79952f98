"""Arguments that several commands share."""

import argparse


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--trust PACKAGE`, which may be given several times: a list of names for `detrex_lite.config.trust`."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="also let YAML configs and overrides call parts of this package, which runs its code (SECURITY.md)",
    )


def add_traceback_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--traceback`."""
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Add detectron2's flags for the numbers of GPUs, processes and machines, and the flag for the engine."""
    parser.add_argument(
        "--num-gpus",
        "--num-processes",
        type=int,
        default=1,
        dest="num_gpus",
        metavar="N",
        help="processes per machine: one per GPU, or any number with train.device=cpu",
    )
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="machines that take part")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="N", help="this machine's number, from 0")
    parser.add_argument(
        "--dist-url", default="auto", metavar="URL", help="tcp://host:port of machine 0, for several machines"
    )
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help="the engine that trains and evaluates")


ENGINES = ("detrex_lite", "detectron2")


def add_override_argument(parser: argparse.ArgumentParser) -> None:
    """Add overrides of the config as positional arguments."""
    parser.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="config overrides")


def add_detector_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --config-file, --weights and --model, the options for trusting them, and --opts."""
    parser.add_argument("--config-file", metavar="FILE", help="config with the model and the test transform")
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="checkpoint file, or the folder of a run; without --config-file, the config inside the file or in "
        "config.yaml next to it is used; with --model, replaces the download",
    )
    parser.add_argument("--model", metavar="NAME", help="a published model, instead of --config-file and --weights")
    parser.add_argument("--trusted", action="store_true", help="allow the weights to run code while they are read")
    add_trust_argument(parser)
    add_traceback_argument(parser)
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the config")


def require_detector(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Report a wrong argument, unless the arguments name exactly one detector."""
    if args.model and args.config_file:
        parser.error("--model has its own config: omit --config-file, and change the config with --opts")
    if not args.model and not args.weights:
        parser.error("give the --weights of a run, or a published --model")


def split_words(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Split `args.words` into `args.model` (None if no word names a model) and the overrides `args.opts`."""
    args.opts = [word for word in args.words if "=" in word or word.startswith("~")]
    models = [word for word in args.words if word not in args.opts]
    if len(models) > 1:
        parser.error(f"expected one model, got {len(models)}: {', '.join(models)}. Overrides are KEY=VALUE")
    args.model = models[0] if models else None
