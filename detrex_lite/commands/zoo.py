"""Listing, downloading and evaluating published checkpoints."""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence

from ..config import ConfigError, trust
from ..zoo import ZooEntry, ZooError, cached_path, load_zoo, obtain, select
from .refusal import refuse

PROGRAM = "detrex-lite zoo"


def run(args: argparse.Namespace) -> int:
    """List, download or evaluate checkpoints; see `detrex_lite.cli.zoo`."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        zoo = load_zoo(args.table)
        entries = select(zoo, args.names or ["all"])
        if args.command == "list":
            show(zoo, args.names, entries)
            return 0
        if args.command == "download":
            return download(entries)
        if args.weights and len(entries) != 1:
            raise ZooError(f"--weights is the file of a single checkpoint, and {len(entries)} are to be evaluated")
        return evaluate(entries, args)
    except (ZooError, ConfigError) as error:
        return refuse("zoo", error)


def show(zoo: Mapping[str, ZooEntry], names: Sequence[str], entries: Sequence[ZooEntry]) -> None:
    """Print a line for each entry, or the full description of entries that the user named one by one."""
    if names and all(name in zoo for name in names):
        print("\n\n".join(entry.describe() for entry in entries))
        return
    width = max((len(entry.name) for entry in entries), default=0)
    print(f"{'name':<{width}}  box AP  epochs  file")
    for entry in entries:
        ap = "-" if entry.box_ap is None else f"{entry.box_ap:g}"
        availability = "downloaded" if cached_path(entry).is_file() else "by hand" if entry.page else "to download"
        print(f"{entry.name:<{width}}  {ap:>6}  {entry.epochs or '-':>6}  {availability}")


def download(entries: Sequence[ZooEntry]) -> int:
    """Download checkpoints, and print their paths; returns the exit status."""
    num_failed = 0
    for entry in entries:
        try:
            print(obtain(entry).path, flush=True)
        except ZooError as error:
            print(f"detrex-lite zoo: {error}", file=sys.stderr)
            num_failed += 1
    return 1 if num_failed else 0


def evaluate(entries: Sequence[ZooEntry], args: argparse.Namespace) -> int:
    """Evaluate checkpoints, and print the table; returns the exit status."""
    # Imported here because it imports the engine, which listing and downloading do not need.
    from ..zoo.evaluate import MARKDOWN_FILE, evaluate_entries, format_rows

    trust(*args.trust)
    table_words = [word for file in args.table for word in ("--table", file)]
    other_words = ["--weights", args.weights] if args.weights else []
    other_words += [word for package in args.trust for word in ("--trust", package)]
    other_words += ["--opts", *args.opts] if args.opts else []
    rows = evaluate_entries(
        entries,
        os.path.expanduser(args.output),
        overrides=args.opts,
        weights=args.weights,
        command=lambda name: shlex.join([*PROGRAM.split(), *table_words, "evaluate", name, *other_words]),
    )
    print(format_rows(rows))
    print(f"written to {os.path.join(os.path.expanduser(args.output), MARKDOWN_FILE)}")
    return 1 if any(row.error for row in rows) else 0
