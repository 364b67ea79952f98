"""Arguments that several commands share."""

import argparse


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--trust PACKAGE`, which may be given several times: a list of names for `detrex_lite.config.trust`."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="let YAML configs and overrides call parts of this package too, which runs its code (SECURITY.md)",
    )


def add_traceback_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--traceback`."""
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Add detectron2's flags that say on how many GPUs, processes and machines a config runs, and by which engine."""
    parser.add_argument(
        "--num-gpus",
        "--num-processes",
        type=int,
        default=1,
        dest="num_gpus",
        metavar="N",
        help="processes per machine: one per GPU, or with train.device=cpu any number",
    )
    parser.add_argument("--num-machines", type=int, default=1, metavar="N", help="machines that take part")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="N", help="this machine's number, from 0")
    parser.add_argument(
        "--dist-url", default="auto", metavar="URL", help="tcp://host:port of machine 0, for several machines"
    )
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help="what trains and evaluates")


ENGINES = ("detrex_lite", "detectron2")


def add_override_argument(parser: argparse.ArgumentParser) -> None:
    """Add overrides of the config, as arguments without an option."""
    parser.add_argument("opts", nargs="*", metavar="KEY=VALUE", help="config overrides")


def add_detector_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --config-file and --weights, or --model; how far to trust them; --opts."""
    parser.add_argument("--config-file", metavar="FILE", help="config with the model and the test transform")
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="checkpoint file, or the folder of a run; without --config-file the config is the one inside the file or "
        "config.yaml beside it; with --model, in place of the download",
    )
    parser.add_argument("--model", metavar="NAME", help="a published model, in place of --config-file and --weights")
    parser.add_argument("--trusted", action="store_true", help="the weights may run code while they are read")
    add_trust_argument(parser)
    add_traceback_argument(parser)
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the config")


def require_detector(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End the program as after any wrong argument, unless the arguments name exactly one detector."""
    if args.model and args.config_file:
        parser.error("--model has its own config: leave --config-file out, and change it with --opts")
    if not args.model and not args.weights:
        parser.error("give the --weights of a run, or the --model of a published one")


def split_words(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Split `args.words` into `args.model`, None without one, and the overrides `args.opts`."""
    args.opts = [word for word in args.words if "=" in word or word.startswith("~")]
    models = [word for word in args.words if word not in args.opts]
    if len(models) > 1:
        parser.error(f"one model at a time, and these are {len(models)}: {', '.join(models)}. Overrides are KEY=VALUE")
    args.model = models[0] if models else None
