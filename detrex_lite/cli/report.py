"""`detrex-lite report`."""

import argparse

NAME = "report"
SUMMARY = "Rewrite the report page of a run, from its saved metrics and detections."
DESCRIPTION = "The page is report.html in the folder of the run: a single file to open in a browser or send by mail."
EXAMPLES = (
    ("the report of a run", "output/"),
    ("the same, written to another file", "output/ --out page.html"),
    ("the report of a run in progress", "output/dino_small_shapes"),
)
RUN = "detrex_lite.commands.report.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="folder of a run: train.output_dir")
    parser.add_argument("--out", metavar="FILE", help="default: report.html in that folder")
