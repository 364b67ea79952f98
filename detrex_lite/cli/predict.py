"""`detrex-lite predict`."""

import argparse

from .arguments import add_detector_arguments, require_detector

NAME = "predict"
SUMMARY = "Find objects in images: draw them, and write them as COCO JSON."
DESCRIPTION = """
Models with masks have them drawn and listed, too. Drawings and the list `predictions.json` are written along the way,
and each is whole at every moment: what was found until the program ends, for whatever reason, is there.

exit status: 0 when every image was done, 1 when some could not be read (they are reported on standard error and the
others are done), 2 when nothing could be done or the results could not be written, 128 and the signal's number when
the program was interrupted.
"""
EXAMPLES = (
    ("published weights, which are downloaded once", "photo.jpg --model dino_r50_4scale_12ep"),
    (
        "a folder, with a detector of your own",
        "photos/ --config-file output/config.yaml --weights output/model_best.pth",
    ),
    (
        "fewer but surer objects",
        "'photos/**/*.jpg' --score-threshold 0.7 --config-file output/config.yaml --weights output/model_best.pth",
    ),
)
RUN = "detrex_lite.commands.predict.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image files, folders, quoted globs (a/**/*.jpg)")
    parser.add_argument("--output", default="output/predictions", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--score-threshold", type=float, default=0.5, metavar="SCORE", help="default: %(default)s")
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="images at a time (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")
    add_detector_arguments(parser)


check = require_detector
