"""`detrex-lite report`."""

import argparse

NAME = "report"
SUMMARY = "Write the page about a run anew, from the numbers and detections that it kept."
DESCRIPTION = "The page is report.html in that folder: one file, to be opened in a browser or sent by mail."
EXAMPLES = (
    ("of a run", "output/"),
    ("into another file", "output/ --out page.html"),
    ("of a run that is still going on", "output/dino_small_shapes"),
)
RUN = "detrex_lite.commands.report.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="of a run: train.output_dir")
    parser.add_argument("--out", metavar="FILE", help="default: report.html in that folder")
