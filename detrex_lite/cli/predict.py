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
        "small objects in large images, with a threshold of its own for one class",
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
    views = parser.add_argument_group("several views of each image", "docs/inference.md has the rules of merging")
    views.add_argument("--tile", type=int, metavar="PIXELS", help="cut images into tiles of this side")
    views.add_argument(
        "--overlap", type=float, metavar="SHARE", help="share of a tile that the next one shows too (default: 0.2)"
    )
    views.add_argument(
        "--no-whole-image", action="store_true", help="show the tiles alone: faster, and misses what is larger than one"
    )
    views.add_argument("--flip", action="store_true", help="show each image, or tile, mirrored as well")
    views.add_argument(
        "--scales", metavar="S,S,...", help="show each image, or tile, in these scales, such as 0.8,1,1.2"
    )
    views.add_argument(
        "--fusion", choices=FUSIONS, help="how objects of views are merged (default: nms of tiles, else weighted)"
    )
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
    if args.tile is None and (args.overlap is not None or args.no_whole_image):
        parser.error("--overlap and --no-whole-image go with --tile")
    if args.fusion and not (args.tile or args.flip or args.scales):
        parser.error("--fusion goes with --tile, --flip and --scales")
    try:
        args.scales = tuple(float(scale) for scale in args.scales.split(",")) if args.scales else (1.0,)
    except ValueError:
        parser.error(f"--scales {args.scales}: give factors with commas between them, such as 0.8,1,1.2")
