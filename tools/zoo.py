"""Published checkpoints: list them, download them, evaluate them.

    python tools/zoo.py list                       # all; `list dino` those of a project, `list NAME` all about one
    python tools/zoo.py download dino_r50_4scale_12ep
    python tools/zoo.py evaluate dino_r50_4scale_12ep --opts train.device=cuda

NAME is the name of a checkpoint, of a project, or "all". Exit status: 0 when everything was done, 1 when something
failed (it is reported, and the rest is done), 2 when nothing could be done.
"""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see tools/train_net.py; before torch starts its threads

from detrex_lite.config import ConfigError, trust
from detrex_lite.config.trusted import add_trust_argument
from detrex_lite.zoo import ZooEntry, ZooError, cached_path, load_zoo, obtain, select

PROGRAM = "python tools/zoo.py"


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zoo.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--table", action="append", default=[], metavar="FILE", help="a further table of checkpoints; may be repeated"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("list", help="show what there is")
    command.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    command = commands.add_parser("download", help="download files into the cache and print their paths")
    command.add_argument("names", nargs="+", metavar="NAME")
    command = commands.add_parser("evaluate", help="measure box AP, and write it beside the published one")
    command.add_argument("names", nargs="+", metavar="NAME")
    command.add_argument("--output", default="output/zoo", metavar="DIR", help="default: %(default)s")
    command.add_argument("--weights", metavar="FILE", help="a file in place of the download, for a single NAME")
    add_trust_argument(command)
    command.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the configs")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    args = argument_parser().parse_args(arguments)
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
        print(f"zoo.py: error: {error}", file=sys.stderr)
        return 2


def show(zoo: Mapping[str, ZooEntry], names: Sequence[str], entries: Sequence[ZooEntry]) -> None:
    """Print a line for each entry, or everything about those that were named one by one."""
    if names and all(name in zoo for name in names):
        print("\n\n".join(entry.describe() for entry in entries))
        return
    width = max((len(entry.name) for entry in entries), default=0)
    print(f"{'name':<{width}}  box AP  epochs  file")
    for entry in entries:
        ap = "-" if entry.box_ap is None else f"{entry.box_ap:g}"
        where = "downloaded" if cached_path(entry).is_file() else "by hand" if entry.page else "to download"
        print(f"{entry.name:<{width}}  {ap:>6}  {entry.epochs or '-':>6}  {where}")


def download(entries: Sequence[ZooEntry]) -> int:
    """Download files, and print where each is; returns the exit status."""
    num_failed = 0
    for entry in entries:
        try:
            print(obtain(entry).path, flush=True)
        except ZooError as error:
            print(f"zoo.py: {error}", file=sys.stderr)
            num_failed += 1
    return 1 if num_failed else 0


def evaluate(entries: Sequence[ZooEntry], args: argparse.Namespace) -> int:
    """Evaluate, and print the table; returns the exit status."""
    # Here, and not above: it takes the engine along, which lists and downloads do without.
    from detrex_lite.zoo.evaluate import MARKDOWN_FILE, evaluate_entries, format_rows

    trust(*args.trust)
    table = [word for file in args.table for word in ("--table", file)]
    rest = ["--weights", args.weights] if args.weights else []
    rest += [word for package in args.trust for word in ("--trust", package)]
    rest += ["--opts", *args.opts] if args.opts else []
    rows = evaluate_entries(
        entries,
        os.path.expanduser(args.output),
        overrides=args.opts,
        weights=args.weights,
        command=lambda name: shlex.join([*PROGRAM.split(), *table, "evaluate", name, *rest]),
    )
    print(format_rows(rows))
    print(f"written to {os.path.join(os.path.expanduser(args.output), MARKDOWN_FILE)}")
    return 1 if any(row.error for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
