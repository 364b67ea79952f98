"""`detrex-lite env`."""

import argparse

NAME = "env"
SUMMARY = "Show installed versions, the device and available features, for bug reports."
DESCRIPTION = ""
EXAMPLES = (("versions, device, kernels, and missing packages", ""), ("for a script", "--json"))
RUN = "detrex_lite.commands.env.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the same as JSON")
