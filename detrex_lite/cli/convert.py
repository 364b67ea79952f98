"""`detrex-lite convert`."""

import argparse

from .check import add_folder_arguments

NAME = "convert"
SUMMARY = "Write a data set in another layout: COCO JSON, YOLO, Pascal VOC or CSV, with its images."
DESCRIPTION = (
    "If the other layout cannot represent the data, the command ends with an error before it writes anything; a note "
    "tells about different numbering. A folder without a validation set is split, as for training."
)
EXAMPLES = (
    ("a folder of any layout as COCO JSON", "photos/ photos_coco/ --to coco"),
    ("polygons as well, with links instead of copies of the images", "photos/ photos_yolo/ --to yolo --masks --link"),
    ("a folder without a validation set, 10 % of it for validation", "photos/ photos_split/ --to voc --val-share 0.1"),
)
RUN = "detrex_lite.commands.convert.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="the data set, in any layout that `detrex-lite check` reads")
    parser.add_argument("out", metavar="OUT", help="the output folder, which must be empty or not exist")
    parser.add_argument("--to", required=True, choices=("coco", "yolo", "voc", "csv"), help="the layout to write")
    parser.add_argument("--masks", action="store_true", help="also convert polygons and run lengths")
    parser.add_argument("--link", action="store_true", help="create links to the images instead of copies")
    add_folder_arguments(parser)


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.masks and args.to in ("voc", "csv"):
        parser.error(f"--masks goes with --to coco and --to yolo: {args.to} has boxes only")
