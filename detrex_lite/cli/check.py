"""`detrex-lite check`."""

import argparse

NAME = "check"
SUMMARY = "List every fault of a data set with its file and annotation, and count its images and objects."
DESCRIPTION = (
    "Reads the pixels of every image. Also writes an HTML page that shows faults with their pictures. The exit status "
    "is 1 when there are faults."
)
EXAMPLES = (
    ("your folder, in any layout", "photos/"),
    ("a COCO JSON file with its images", "--coco annotations/train.json --images images/"),
    ("COCO itself, in the folder that DETREX_DATASETS names", "--name coco_2017_val --no-decode"),
)
RUN = "detrex_lite.commands.check.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", nargs="?", metavar="FOLDER", help="a folder with COCO JSON, YOLO, VOC or CSV annotations, or images"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--coco", metavar="FILE", help="a COCO JSON file")
    source.add_argument("--panoptic", metavar="FILE", help="a COCO panoptic JSON file")
    source.add_argument("--voc", metavar="FOLDER", help="a folder of Pascal VOC XML files")
    source.add_argument("--name", help="a data set under DETREX_DATASETS, e.g. coco_2017_val")
    add_folder_arguments(parser)
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="the folder of images, for --panoptic, --voc and --coco (default: the folder of the JSON file)",
    )
    parser.add_argument("--masks", action="store_true", help="check polygons and run lengths in addition to boxes")
    parser.add_argument(
        "--segments", metavar="FOLDER", help="the PNG files of --panoptic (default: next to the JSON file)"
    )
    parser.add_argument("--split", metavar="FILE", help="names of the XML files to read, for --voc")
    parser.add_argument(
        "--one-based", action="store_true", help="VOC coordinates count from 1, as in the official files"
    )
    parser.add_argument(
        "--decode",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="read the pixels of every image and mask (the default), or the headers of images only",
    )
    parser.add_argument(
        "--page",
        metavar="FILE",
        default="output/check.html",
        help="HTML page that shows faults with their pictures (default: %(default)s; none writes no page)",
    )


def add_folder_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for reading a FOLDER."""
    parser.add_argument(
        "--layout", choices=("yolo", "coco", "voc", "csv"), help="the layout to read if FOLDER has several"
    )
    parser.add_argument(
        "--seed",
        type=int,
        metavar="N",
        help="seed of the split that is drawn if FOLDER has no validation set (default: 0)",
    )
    parser.add_argument(
        "--val-share",
        type=float,
        metavar="SHARE",
        help="the fraction of images for validation in that split (default: 0.2)",
    )


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    sources = [name for name in ("coco", "panoptic", "voc", "name") if getattr(args, name) is not None]
    if args.folder is None and not sources:
        parser.error("one of FOLDER, --coco, --panoptic, --voc and --name is required")
    if args.folder is not None and sources:
        parser.error(f"FOLDER and --{sources[0]} are two data sets: give only one")
    if (args.panoptic or args.voc) and args.images is None:
        parser.error("--panoptic and --voc need --images")
    if args.folder is not None and args.images:
        parser.error("--images goes with --coco, --panoptic and --voc; the images of FOLDER are found without it")
    for name in ("layout", "seed", "val_share"):
        if args.folder is None and getattr(args, name) is not None:
            parser.error(f"--{name.replace('_', '-')} goes with FOLDER")
    if args.voc is None and (args.split or args.one_based):
        parser.error("--split and --one-based go with --voc")
    if args.panoptic is None and args.segments:
        parser.error("--segments goes with --panoptic")
    if args.masks and not (args.coco or args.name or args.folder):
        parser.error("--masks goes with FOLDER, --coco and --name")
