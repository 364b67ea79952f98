"""`detrex-lite evaluate`."""

import argparse

from .arguments import add_override_argument, add_process_arguments, add_traceback_argument, add_trust_argument

NAME = "evaluate"
SUMMARY = "Measure how well trained weights detect, on the test set of a config."
DESCRIPTION = ""
EXAMPLES = (
    ("the best weights of a run", "--config-file output/config.yaml --weights output/model_best.pth"),
    (
        "weights on other images",
        "--config-file output/config.yaml --weights output/model_best.pth dataset.val_images=new "
        "dataset.val_annotations=new.json",
    ),
    (
        "with detectron2's evaluation loop",
        "--config-file output/config.yaml --weights output/model_best.pth --engine detectron2",
    ),
)
RUN = "detrex_lite.commands.evaluate.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a LazyConfig .py or .yaml file")
    parser.add_argument("--weights", required=True, metavar="FILE", help="the checkpoint that is evaluated")
    parser.add_argument("--output", metavar="DIR", help="where results are written; default: train.output_dir")
    add_process_arguments(parser)
    add_trust_argument(parser)
    add_traceback_argument(parser)
    add_override_argument(parser)
