"""`detrex-lite check`."""

import argparse

NAME = "check"
SUMMARY = "List every fault of a data set with its file and annotation, and count what is in it."
DESCRIPTION = "The exit status is 1 when there are faults."
EXAMPLES = (
    ("a COCO JSON file, every image of it", "--coco annotations/train.json --images images/ --decode"),
    (
        "Pascal VOC",
        "--voc Annotations/ --images JPEGImages/ --split ImageSets/Main/train.txt",
    ),
    ("COCO's own, below the folder that DETREX_DATASETS names", "--name coco_2017_val"),
)
RUN = "detrex_lite.commands.check.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--coco", metavar="FILE", help="a COCO JSON file")
    source.add_argument("--panoptic", metavar="FILE", help="a COCO panoptic JSON file")
    source.add_argument("--voc", metavar="FOLDER", help="a folder of Pascal VOC XML files")
    source.add_argument("--name", help="a data set under DETREX_DATASETS, e.g. coco_2017_val")
    parser.add_argument("--images", metavar="FOLDER", help="the folder of images, with --coco, --panoptic or --voc")
    parser.add_argument("--masks", action="store_true", help="check the segmentations of --coco or --name, too")
    parser.add_argument(
        "--segments", metavar="FOLDER", help="the PNG files of --panoptic; beside the JSON file when left out"
    )
    parser.add_argument("--split", metavar="FILE", help="names of the XML files to read, with --voc")
    parser.add_argument(
        "--one-based", action="store_true", help="VOC coordinates count from 1, as in the official files"
    )
    parser.add_argument("--decode", action="store_true", help="read the pixels of every image and mask")


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.name is None and args.images is None:
        parser.error("--coco, --panoptic and --voc need --images")
    if args.voc is None and (args.split or args.one_based):
        parser.error("--split and --one-based go with --voc")
    if args.panoptic is None and args.segments:
        parser.error("--segments goes with --panoptic")
    if args.masks and not (args.coco or args.name):
        parser.error("--masks goes with --coco and --name")
