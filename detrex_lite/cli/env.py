"""`detrex-lite env`."""

import argparse

NAME = "env"
SUMMARY = "Show what is installed and what this machine can do, for bug reports."
DESCRIPTION = ""
EXAMPLES = (("versions, device, kernels, and what is missing for what", ""), ("for a script", "--json"))
RUN = "detrex_lite.commands.env.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the same as JSON")
