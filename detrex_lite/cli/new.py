"""`detrex-lite new`."""

import argparse

NAME = "new"
SUMMARY = "Write a new, working project that extends an existing one: class, configs, README, tests."
DESCRIPTION = """
The project consists of differences from its source: a subclass of the detector and a small loss mark the places for an
idea, a config trains it on generated shapes in minutes on a CPU, and its tests are those that every detector has to
pass. In a clone of the repository it becomes projects/NAME, elsewhere a package NAME in the current folder.
"""
EXAMPLES = (
    ("in a clone of the repository: projects/my_detr", "my_detr --from dino"),
    ("a package of your own", "my_detr --from rtdetr --into ~/my_research"),
)
RUN = "detrex_lite.commands.new.run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", help="name of the project, such as my_detr: a lower-case Python identifier"
    )
    parser.add_argument("--from", required=True, dest="source", metavar="PROJECT", help="the project that it extends")
    parser.add_argument("--into", metavar="FOLDER", help="the folder in which the project's folder is created")
