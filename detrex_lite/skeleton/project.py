"""Writing a new project from templates, inside this repository or as a user's package."""

import keyword
import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import detrex_lite

from .error import SkeletonError
from .layout import EXAMPLE, class_name_of, files_of, layout_in_repository, layout_of_package
from .source import read_source

_NAME = re.compile(r"[a-z][a-z0-9_]{1,24}")


@dataclass(frozen=True)
class Project:
    """A project that has been written.

    Attributes:
        name: name of its folder and its package.
        folder: folder of its package.
        files: all files that were written.
        start: the folder in which to run the commands.
        next_steps: commands to train the project, test it, and so on, each with its purpose.
    """

    name: str
    folder: Path
    files: tuple[Path, ...]
    start: Path
    next_steps: tuple[tuple[str, str], ...]


def write_project(name: str, source: str, into: str | os.PathLike[str] | None = None) -> Project:
    """Write a working project: its class, configs, README and tests, as differences from another project.

    Args:
        name: name of the new project: a Python identifier in lower case.
        source: the project that it extends, such as "dino".
        into: the folder in which the project's folder is created; it is created if it does not exist. None stands for
            the repository's `projects/` if the current folder is in a clone of this repository, and otherwise for the
            current folder.

    Raises:
        SkeletonError: the name is invalid or taken, the source does not exist, or the folder cannot be written.
    """
    root = _repository()
    parent = _parent(into, root)
    _check_name(name)
    in_repository = root is not None and parent == root / "projects"
    _check_free(name, parent, in_repository)
    description = read_source(source)
    if class_name_of(name) in (EXAMPLE, description.class_name):
        raise SkeletonError(f"the class of {name!r} would be {class_name_of(name)}, which exists; choose another name")
    layout = layout_in_repository(name, root) if in_repository and root else layout_of_package(name, parent)
    files = {layout.start / path: text for path, text in files_of(layout, description).items()}
    existing = [path for path in files if path.exists()]
    if existing:
        raise SkeletonError(f"{existing[0]} exists already; choose another name, or delete it")
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SkeletonError(f"{error.filename} cannot be written: {error.strerror}") from error
    return Project(name, parent / name, tuple(files), layout.start, layout.next_steps)


def _repository() -> Path | None:
    """The clone of this repository from which this package runs; None for an installed package."""
    root = detrex_lite.SHIPPED_IN
    return root.resolve() if (root / "tests" / "projects").is_dir() else None


def _parent(into: str | os.PathLike[str] | None, root: Path | None) -> Path:
    if into is not None:
        parent = Path(into).expanduser().resolve()
        if parent.exists() and not parent.is_dir():
            raise SkeletonError(f"{parent} is not a folder; --into is the folder in which the project's is created")
        return parent
    here = Path.cwd()
    return root / "projects" if root is not None and here.is_relative_to(root) else here


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        fixed = re.sub(r"\W+", "_", name.lower()).strip("_")[:25]
        hint = f"; {fixed!r} is valid" if _NAME.fullmatch(fixed) and not keyword.iskeyword(fixed) else ""
        raise SkeletonError(
            f"{name!r} cannot be the name of a project: it must be a name for a Python package, with 2 to 25 "
            f"lower-case letters, digits and underscores, beginning with a letter, and not a keyword{hint}"
        )


def _check_free(name: str, parent: Path, in_repository: bool) -> None:
    if (detrex_lite.SHIPPED_IN / "projects" / name).exists():
        raise SkeletonError(f"there is a project {name!r} already; choose another name")
    if (parent / name).exists():
        raise SkeletonError(f"{parent / name} exists already; choose another name, or delete it")
    module = None if in_repository else find_spec(name)
    if module is not None:
        origin = module.origin or next(iter(module.submodule_search_locations or ()), "Python itself")
        raise SkeletonError(f"Python has a module {name!r} already ({origin}); choose another name")
