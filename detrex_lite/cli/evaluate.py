"""`detrex-lite evaluate`."""

import argparse

from .arguments import add_override_argument, add_process_arguments, add_traceback_argument, add_trust_argument
from .train import check_data

NAME = "evaluate"
SUMMARY = "Measure how well trained weights detect, and where they fail."
DESCRIPTION = """
The config is the one that training saved in the checkpoint or next to it, unless --config-file names another. With
--data, the images of another folder are evaluated; it must have the classes that the weights were trained on.

exit status: 0 when everything was evaluated, 1 when evaluation failed, 2 when arguments, config, data or weights are
wrong.
"""
EXAMPLES = (
    ("a run", "--weights output/"),
    ("these weights on other images", "--weights output/model_best.pth --data FOLDER"),
    ("weights of another project", "--weights detr.pth --config-file projects/detr/configs/detr_r50_300ep.py"),
)
RUN = "detrex_lite.commands.evaluate.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", required=True, metavar="FILE", help="the checkpoint to evaluate, or the folder of a run"
    )
    parser.add_argument("--config-file", metavar="FILE", help="a LazyConfig .py or .yaml file")
    parser.add_argument("--data", metavar="FOLDER", help="images with annotations, instead of the config's")
    parser.add_argument(
        "--split",
        choices=("val", "test", "train"),
        help="split of the folder of --data, or of the folder that the weights were trained on; default: val",
    )
    parser.add_argument("--device", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder for the results; default: the folder of the run, or with --data a folder in it",
    )
    add_process_arguments(parser)
    add_trust_argument(parser)
    add_traceback_argument(parser)
    add_override_argument(parser)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    check_data(parser, args)
    invalid = [word for word in args.opts if "=" not in word and not word.startswith("~")]
    if invalid:
        parser.error(f"{invalid[0]} is not an override (KEY=VALUE). Give weights by --weights, images by --data")
