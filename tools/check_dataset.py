"""List every fault of a data set with its file and annotation, and count what is in it.

    python tools/check_dataset.py --coco annotations/train.json --images images/
    python tools/check_dataset.py --coco annotations/train.json --images images/ --masks --decode
    python tools/check_dataset.py --panoptic annotations/panoptic_val2017.json --images val2017/
    python tools/check_dataset.py --voc Annotations/ --images JPEGImages/ --split ImageSets/Main/train.txt
    python tools/check_dataset.py --name coco_2017_val

The exit status is 1 when there are faults.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from detrex_lite.data.check import Reader, Report, check_dataset, named_reader
from detrex_lite.data.coco import read_coco
from detrex_lite.data.faults import DatasetError
from detrex_lite.data.panoptic import read_coco_panoptic
from detrex_lite.data.voc import read_voc


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="check_dataset.py"
    )
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
    return parser


def _reader(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Reader:
    if arguments.name is None and arguments.images is None:
        parser.error("--coco, --panoptic and --voc need --images")
    if arguments.voc is None and (arguments.split or arguments.one_based):
        parser.error("--split and --one-based go with --voc")
    if arguments.panoptic is None and arguments.segments:
        parser.error("--segments goes with --panoptic")
    if arguments.masks and not (arguments.coco or arguments.name):
        parser.error("--masks goes with --coco and --name")
    if arguments.coco is not None:
        return partial(read_coco, arguments.coco, arguments.images, masks=arguments.masks)
    if arguments.panoptic is not None:
        segments = arguments.segments or str(Path(arguments.panoptic).with_suffix(""))
        return partial(read_coco_panoptic, arguments.panoptic, arguments.images, segments)
    if arguments.voc is not None:
        return partial(read_voc, arguments.voc, arguments.images, arguments.split, one_based=arguments.one_based)
    return named_reader(arguments.name, masks=arguments.masks)


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        report: Report = check_dataset(_reader(parser, arguments), decode=arguments.decode)
    except DatasetError as error:
        print(error, file=sys.stderr)
        return 1
    print(report)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
