"""Write the page about a run anew, from its metrics.jsonl, its config.yaml and the detections that it kept.

    python tools/report.py output/

The page is report.html in that folder: one file, to be opened in a browser or sent by mail.
"""

import argparse
import sys
from collections.abc import Sequence

from detrex_lite.visualization import write_report


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="report.py"
    )
    parser.add_argument("folder", help="of a run: train.output_dir")
    parser.add_argument("--out", metavar="FILE", help="default: report.html in that folder")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    try:
        path = write_report(arguments.folder, arguments.out)
    except FileNotFoundError as error:
        print(f"error: {arguments.folder} is no folder of a run: there is no {error.filename}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
