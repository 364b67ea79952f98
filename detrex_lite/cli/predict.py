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
        "photos/ --weights output/model_best.pth",
    ),
    (
        "fewer but surer objects",
        "'photos/**/*.jpg' --conf 0.7 --class-threshold dog=0.9 --weights output/model_best.pth",
    ),
)
RUN = "detrex_lite.commands.predict.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image files, folders, quoted globs (a/**/*.jpg)")
    parser.add_argument("--output", default="output/predictions", metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--score-threshold",
        "--conf",
        type=float,
        default=0.5,
        metavar="SCORE",
        help="objects with lower scores are left out (default: %(default)s)",
    )
    parser.add_argument(
        "--class-threshold",
        action="append",
        default=[],
        metavar="NAME=SCORE",
        help="another threshold for one class; may be given several times",
    )
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="images at a time (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")
    add_detector_arguments(parser)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    require_detector(parser, args)
    thresholds: dict[str, float] = {}
    for text in args.class_threshold:
        name, _, score = text.rpartition("=")
        try:
            thresholds[name] = float(score)
        except ValueError:
            name = ""
        if not name:
            parser.error(f"--class-threshold {text}: give the name of a class and a score, such as dog=0.3")
    args.class_threshold = thresholds
