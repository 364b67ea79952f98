"""Writing the report page of a run."""

import argparse
import sys

from ..visualization import write_report


def run(arguments: argparse.Namespace) -> int:
    """Write the report page; see `detrex_lite.cli.report`."""
    try:
        path = write_report(arguments.folder, arguments.out)
    except (FileNotFoundError, NotADirectoryError) as error:
        message = f"{arguments.folder} is not the folder of a run: {error.filename} does not exist"
        print(f"detrex-lite report: error: {message}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"detrex-lite report: error: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0
