"""`detrex-lite convert-checkpoint`."""

import argparse

from .arguments import add_override_argument, add_trust_argument

NAME = "convert-checkpoint"
SUMMARY = "Write a trained detector's weights with this project's tensor names, or with those of another project."
DESCRIPTION = """
The checkpoint may have any tensor names that this project reads; it must be a complete checkpoint of the config's
model. Overrides of the config may follow. Tensors that only training uses (label embeddings of denoising queries) may
be missing, and are then omitted.

Exit status: 0 when the file was written, 2 when it was not.
"""
EXAMPLES = (
    (
        "tensors only, with this project's names",
        "--config-file projects/dino/configs/dino_r50_4scale_12ep.py --weights IN.pth --output OUT.safetensors",
    ),
    (
        "for mmdetection",
        "--config-file output/config.yaml --weights output/model_best.pth --output OUT.pth --to mmdetection",
    ),
    (
        "the last weights instead of their running mean",
        "--config-file output/config.yaml --weights output/model_final.pth --output OUT.pth --no-ema",
    ),
)
RUN = "detrex_lite.commands.convert_checkpoint.run"

# As in detrex_lite.checkpoint.KEY_MAPS, which imports torch; a test compares them.
FORMATS = (
    "detrex_lite",
    "detrex",
    "detr",
    "conditional_detr",
    "dab_detr",
    "anchor_detr",
    "deformable_detr",
    "dino",
    "relation_detr",
    "rtdetr",
    "rtdetrv2",
    "presnet",
    "dfine",
    "hgnetv2",
    "transformers",
    "lwdetr",
    "rfdetr",
    "maskdino",
    "mmdetection",
    "torchvision",
    "detectron2",
    "cae",
    "dinov2",
)
SUFFIXES = (".pth", ".pt", ".safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the model")
    parser.add_argument("--weights", required=True, metavar="FILE", help="the checkpoint to read")
    parser.add_argument("--output", required=True, metavar="FILE", help=f"output file: {', '.join(SUFFIXES)}")
    parser.add_argument(
        "--to",
        default=FORMATS[0],
        metavar="FORMAT",
        help=f"format of the names: {', '.join(FORMATS)}; default: %(default)s",
    )
    parser.add_argument("--no-ema", action="store_true", help="use the last weights, not their running mean (EMA)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    parser.add_argument("--trusted", action="store_true", help="allow the weights to run code while they are read")
    add_trust_argument(parser)
    add_override_argument(parser)
