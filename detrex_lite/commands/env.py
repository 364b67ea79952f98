"""Printing versions, the device and available kernels."""

import argparse
import json

from ..env import collect, format_report


def run(args: argparse.Namespace) -> int:
    """Print the report; see `detrex_lite.cli.env`."""
    report = collect()
    print(json.dumps(report, indent=1) if args.json else format_report(report))
    return 0
