"""Listing the faults of a data set."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from ..data.check import Reader, check_dataset, named_reader
from ..data.check_folder import check_folder
from ..data.coco import read_coco
from ..data.faults import DatasetError, Fault
from ..data.panoptic import read_coco_panoptic
from ..data.voc import read_voc
from ..visualization.fault_page import write_fault_page
from .refusal import refuse


def _reader(arguments: argparse.Namespace) -> Reader:
    if arguments.coco is not None:
        images = arguments.images or str(Path(arguments.coco).parent)
        return partial(read_coco, arguments.coco, images, masks=arguments.masks)
    if arguments.panoptic is not None:
        segments = arguments.segments or str(Path(arguments.panoptic).with_suffix(""))
        return partial(read_coco_panoptic, arguments.panoptic, arguments.images, segments)
    if arguments.voc is not None:
        return partial(read_voc, arguments.voc, arguments.images, arguments.split, one_based=arguments.one_based)
    return named_reader(arguments.name, masks=arguments.masks)


def folder_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The values of `--layout`, `--seed` and `--val-share` on the command line, as arguments of `find_dataset`."""
    options = {name: getattr(arguments, name) for name in ("layout", "seed", "val_share")}
    return {name: value for name, value in options.items() if value is not None}


def run(arguments: argparse.Namespace) -> int:
    """Check a data set; see `detrex_lite.cli.check`."""
    try:
        if arguments.folder is not None:
            options = folder_options(arguments)
            folder_report = check_folder(arguments.folder, decode=arguments.decode, masks=arguments.masks, **options)
            text, faults, is_empty = str(folder_report), folder_report.all_faults, folder_report.found is None
        else:
            report = check_dataset(_reader(arguments), decode=arguments.decode)
            text, faults, is_empty = str(report), report.faults, report.dataset is None
    except DatasetError as error:
        return refuse("check", error)
    if is_empty:
        return refuse(
            "check", "\n".join(fault.message if fault.where == "data set" else str(fault) for fault in faults)
        )
    print(text)
    _show(faults, arguments)
    return 1 if faults else 0


def _show(faults: list[Fault], arguments: argparse.Namespace) -> None:
    """Write an HTML page of the faults that have pictures."""
    if arguments.page == "none" or not any(fault.image for fault in faults):
        return
    source = arguments.folder or arguments.coco or arguments.panoptic or arguments.voc or arguments.name
    path = write_fault_page(faults, arguments.page, title=f"Faults of {source}")
    print(f"\nwith pictures: {path}")
