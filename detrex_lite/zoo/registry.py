"""Lookup of entries in the tables of all projects and of users."""

import dataclasses
import os
import runpy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import detrex_lite

from ..errors import did_you_mean
from .entry import ZooEntry, ZooError

TABLE = "zoo.py"
ALL = "all"


def read_table(file: str | os.PathLike[str]) -> tuple[ZooEntry, ...]:
    """Read the entries of a table: a Python file that defines `ENTRIES`.

    Raises:
        ZooError: when there is no such file, it does not run, or has no entries.
    """
    path = Path(file).absolute()
    if not path.is_file():
        raise ZooError(f"there is no table of checkpoints {path}")
    try:
        entries = runpy.run_path(str(path)).get("ENTRIES")
    except ZooError as error:
        raise ZooError(f"{path}: {error}") from error
    except Exception as error:
        raise ZooError(f"{path} does not run ({type(error).__name__}: {error})") from error
    if not isinstance(entries, Sequence) or not all(isinstance(entry, ZooEntry) for entry in entries):
        raise ZooError(f"{path} must define ENTRIES, a tuple of ZooEntry")
    return tuple(dataclasses.replace(entry, folder=path.parent) for entry in entries)


def load_zoo(tables: Iterable[str | os.PathLike[str]] = ()) -> dict[str, ZooEntry]:
    """Load the entries of all projects by name, in the order of the projects.

    Args:
        tables: further tables, of users.

    Raises:
        ZooError: when a table has a fault, or two entries have the same name.
    """
    shipped = sorted((detrex_lite.SHIPPED_IN / "projects").glob(f"*/{TABLE}"))
    zoo: dict[str, ZooEntry] = {}
    for table in [*shipped, *tables]:
        for entry in read_table(table):
            if entry.name in zoo:
                raise ZooError(f"{table}: the name {entry.name!r} is taken, in {zoo[entry.name].folder / TABLE}")
            zoo[entry.name] = entry
    return zoo


def find_entry(zoo: Mapping[str, ZooEntry], name: str) -> ZooEntry:
    """Return the entry with that name.

    Raises:
        ZooError: when there is none.
    """
    if name not in zoo:
        raise _unknown(name, zoo)
    return zoo[name]


def _unknown(name: str, choices: Iterable[str]) -> ZooError:
    hint = did_you_mean(name, choices, otherwise="; `detrex-lite zoo list` shows all")
    return ZooError(f"there is no published checkpoint {name!r}{hint}")


def select(zoo: Mapping[str, ZooEntry], words: Sequence[str]) -> list[ZooEntry]:
    """Return the entries that the words select, each once: names of entries, names of projects, or "all".

    Raises:
        ZooError: when a word selects nothing.
    """
    chosen: dict[str, ZooEntry] = {}
    projects = {entry.project for entry in zoo.values()}
    for word in words:
        if word == ALL:
            chosen.update(zoo)
        elif word in projects:
            chosen.update({name: entry for name, entry in zoo.items() if entry.project == word})
        elif word in zoo:
            chosen[word] = zoo[word]
        else:
            raise _unknown(word, (*zoo, *projects, ALL))
    return list(chosen.values())
