"""`detrex-lite predict`."""

import argparse

from .arguments import add_detector_arguments, require_detector

NAME = "predict"
SUMMARY = "Detect objects in images: draw them, and write them as COCO JSON."
DESCRIPTION = """
Masks are drawn and listed if the model predicts them. Drawings and the list `predictions.json` are written during the
run, and every file is always complete: if the program ends early, for whatever reason, earlier results are kept.

exit status: 0 when every image was processed, 1 when some could not be read (they are reported on standard error, and
the others are processed), 2 when no image could be processed or the results could not be written, 128 plus the signal's
number when the program was interrupted.
"""
EXAMPLES = (
    ("published weights, which are downloaded once", "photo.jpg --model dino_r50_4scale_12ep"),
    (
        "a folder, with a detector of your own",
        "photos/ --weights output/model_best.pth",
    ),
    (
        "small objects in large images, with a separate threshold for one class",
        "aerial.jpg --tile 640 --conf 0.4 --class-threshold car=0.6 --weights output/",
    ),
)
# As in detrex_lite.inference.merging, which imports NumPy; a test compares them.
FUSIONS = ("nms", "weighted")
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
        help="objects with lower scores are omitted (default: %(default)s)",
    )
    parser.add_argument(
        "--class-threshold",
        type=_class_threshold,
        action="append",
        default=[],
        metavar="NAME=SCORE",
        help="a separate threshold for one class; may be given several times",
    )
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="images per batch (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")
    views = parser.add_argument_group("several views of each image", "docs/inference.md has the rules for merging")
    views.add_argument("--tile", type=int, metavar="PIXELS", help="cut images into square tiles with this side")
    views.add_argument(
        "--overlap", type=float, metavar="SHARE", help="overlap of neighbouring tiles as a fraction (default: 0.2)"
    )
    views.add_argument(
        "--no-whole-image", action="store_true", help="use tiles only: faster, but misses objects larger than a tile"
    )
    views.add_argument("--flip", action="store_true", help="also use the mirror image of each image or tile")
    views.add_argument(
        "--scales",
        type=_scales,
        default=(1.0,),
        metavar="S,S,...",
        help="resize each image or tile by these factors, such as 0.8,1,1.2",
    )
    views.add_argument(
        "--fusion",
        choices=FUSIONS,
        help="how to merge objects of several views (default: nms with tiles, otherwise weighted)",
    )
    add_detector_arguments(parser)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    require_detector(parser, args)
    if args.tile is None and (args.overlap is not None or args.no_whole_image):
        parser.error("--overlap and --no-whole-image go with --tile")
    if args.fusion and args.tile is None and not args.flip and args.scales == (1.0,):
        parser.error("--fusion goes with --tile, --flip and --scales")


def _class_threshold(text: str) -> tuple[str, float]:
    name, _, score = text.rpartition("=")
    try:
        if name:
            return name, float(score)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r}: give the name of a class and a score, such as dog=0.3")


def _scales(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(scale) for scale in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give factors separated by commas, such as 0.8,1,1.2") from None
