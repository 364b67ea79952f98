"""Writing a new project."""

import argparse

from ..skeleton import SkeletonError, write_project
from .refusal import refuse


def run(arguments: argparse.Namespace) -> int:
    """Write a project, and print its files and the next steps; see `detrex_lite.cli.new`."""
    try:
        project = write_project(arguments.name, arguments.source, arguments.into)
    except SkeletonError as error:
        return refuse("new", error)
    print(f"Wrote {len(project.files)} files into {project.start}:")
    for file in project.files:
        print(f"  {file.relative_to(project.start)}")
    print(f"\nTO CHANGE marks the places to begin with; README.md says what each file is for. In {project.start}:")
    for command, purpose in project.next_steps:
        print(f"\n  # {purpose}\n  {command}")
    return 0
