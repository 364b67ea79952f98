"""Writing a data set in another layout."""

import argparse

from ..data.conversion import convert_dataset
from ..data.faults import DatasetError
from ..data.layouts import find_dataset
from ..errors import printable_lines
from .check import folder_options
from .refusal import refuse


def run(arguments: argparse.Namespace) -> int:
    """Convert a data set; see `detrex_lite.cli.convert`."""
    try:
        dataset = find_dataset(arguments.folder, **folder_options(arguments))
        print(printable_lines(dataset.describe()))
        result = convert_dataset(dataset, arguments.out, arguments.to, masks=arguments.masks, link=arguments.link)
    except (DatasetError, OSError) as error:
        return refuse("convert", error)
    for remark in result.remarks:
        print(printable_lines(f"note: {remark}"))
    counts = ", ".join(f"{split} {number} images" for split, number in result.images.items())
    print(f"{arguments.out}: {arguments.to}, {counts}")
    return 0
