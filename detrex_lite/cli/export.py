"""`detrex-lite export`."""

import argparse

from .arguments import add_detector_arguments, require_detector

NAME = "export"
SUMMARY = "Write a detector as a file for other runtimes, and compare the file's detections with the detector's."
DESCRIPTION = """
docs/deployment.md is the guide. Exit status: 0 when the file was written and its detections agree with those of the
detector, 2 otherwise.
"""
EXAMPLES = (
    (
        "ONNX, from a run of your own",
        "--config-file output/config.yaml --weights output/model_best.pth --output detector.onnx",
    ),
    (
        "OpenVINO, from published weights, for images of one size",
        "--model dino_r50_4scale_12ep --format openvino --size 800x1066 --output dino.xml",
    ),
    (
        "images of any size, any number at a time",
        "--model dino_r50_4scale_12ep --size dynamic --batch dynamic --output dino.onnx",
    ),
)
RUN = "detrex_lite.commands.export.run"

# As in detrex_lite.inference, whose modules import torch; a test compares them.
FORMATS = ("onnx", "openvino", "torch.export", "torchscript")
PRECISIONS = ("fp32", "fp16", "int8")
INSIDE, OUTSIDE = "inside", "outside"
FIRST_OPSET = 18


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, metavar="FILE", help="ends in .onnx, .xml, .pt2 or .torchscript")
    parser.add_argument("--format", help=f"{', '.join(FORMATS)}; default: according to the suffix of --output")
    parser.add_argument("--precision", default="fp32", help=f"{', '.join(PRECISIONS)}; default: %(default)s")
    parser.add_argument(
        "--size", metavar="SIDE | HxW | dynamic", help="size of images in pixels; default: that of the test transform"
    )
    parser.add_argument("--batch", default="1", help="images per run, or 'dynamic'; default: %(default)s")
    parser.add_argument(
        "--padded", action="store_true", help="the file also takes the sizes of images, to mask padding"
    )
    for part, task in (("preprocess", "normalising"), ("postprocess", "detections from logits and boxes")):
        parser.add_argument(f"--{part}", default=INSIDE, help=f"{INSIDE} or {OUTSIDE}: {task}; default: %(default)s")
    parser.add_argument("--opset", type=int, default=FIRST_OPSET, help="opset of ONNX; default: %(default)s")
    parser.add_argument("--score-limit", type=float, help="the largest accepted difference of scores")
    parser.add_argument("--box-limit", type=float, help="the largest accepted difference of boxes, in pixels")
    add_detector_arguments(parser)


check = require_detector
