"""Listing the faults of a data set."""

import argparse
import sys
from functools import partial
from pathlib import Path

from ..data.check import Reader, Report, check_dataset, named_reader
from ..data.coco import read_coco
from ..data.faults import DatasetError
from ..data.panoptic import read_coco_panoptic
from ..data.voc import read_voc


def _reader(arguments: argparse.Namespace) -> Reader:
    if arguments.coco is not None:
        return partial(read_coco, arguments.coco, arguments.images, masks=arguments.masks)
    if arguments.panoptic is not None:
        segments = arguments.segments or str(Path(arguments.panoptic).with_suffix(""))
        return partial(read_coco_panoptic, arguments.panoptic, arguments.images, segments)
    if arguments.voc is not None:
        return partial(read_voc, arguments.voc, arguments.images, arguments.split, one_based=arguments.one_based)
    return named_reader(arguments.name, masks=arguments.masks)


def run(arguments: argparse.Namespace) -> int:
    """Check a data set; see `detrex_lite.cli.check`."""
    try:
        report: Report = check_dataset(_reader(arguments), decode=arguments.decode)
    except DatasetError as error:
        print(error, file=sys.stderr)
        return 1
    print(report)
    return 1 if report.faults else 0
