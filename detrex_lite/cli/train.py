"""`detrex-lite train`."""

import argparse

from .arguments import add_override_argument, add_process_arguments, add_traceback_argument, add_trust_argument

NAME = "train"
SUMMARY = "Train what a config describes."
DESCRIPTION = """
Overrides change the config: train.max_iter=10 model.num_queries=50 +new.key=1. `detrex-lite config FILE [overrides]`
prints the result.
"""
EXAMPLES = (
    ("on COCO, by 8 GPUs", "--config-file projects/detr/configs/detr_r50_300ep.py --num-gpus 8"),
    ("go on with a run that has stopped", "--config-file output/config.yaml --resume"),
    ("the same by detectron2's trainer", "--config-file projects/detr/configs/detr_r50_300ep.py --engine detectron2"),
)
RUN = "detrex_lite.commands.train.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a LazyConfig .py or .yaml file")
    parser.add_argument("--resume", action="store_true", help="go on with the run in train.output_dir")
    parser.add_argument("--eval-only", action="store_true", help="evaluate train.init_checkpoint, do not train")
    add_process_arguments(parser)
    add_trust_argument(parser)
    add_traceback_argument(parser)
    add_override_argument(parser)
