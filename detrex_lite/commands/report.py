"""Writing the report page of a run."""

import argparse

from ..visualization import write_report
from .refusal import refuse


def run(arguments: argparse.Namespace) -> int:
    """Write the report page; see `detrex_lite.cli.report`."""
    try:
        path = write_report(arguments.folder, arguments.out)
    except (FileNotFoundError, NotADirectoryError) as error:
        message = f"{arguments.folder} is not the folder of a run: {error.filename} does not exist"
        return refuse("report", f"error: {message}")
    except ValueError as error:
        return refuse("report", error)
    print(path)
    return 0
