"""The names of models on the command line, collected without importing any project.

A project stands for the model of its `card.py`, a model (`projects/*/configs/models/NAME.py`) for the training that
its authors published, and a training (`projects/*/configs/NAME.py`) for itself. The name of a published checkpoint
stands for the training that produced it.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import detrex_lite

AUTO = "auto"
CONFIG_SUFFIXES = (".py", ".yaml", ".yml")
_EPOCHS = re.compile(r"_(\d+)ep$")
_TABLE_NAME = re.compile(r'\(\s*"([a-z0-9][a-z0-9_.+-]*)",')


class Names(NamedTuple):
    """The config files of the package by name.

    Attributes:
        projects: project -> the name of its model.
        models: model -> the config of its training.
        trainings: name of a training -> its config.
        checkpoints: names of published checkpoints, parsed from the text of the projects' tables, possibly with other
            first arguments in these tables.
    """

    projects: dict[str, str]
    models: dict[str, Path]
    trainings: dict[str, Path]
    checkpoints: frozenset[str]

    def config_of(self, name: str) -> Path | None:
        """The config that a project, a model or a training stands for; None for other names."""
        model = self.projects.get(name, name)
        return self.models.get(model) or self.trainings.get(model)

    def is_model_only(self, name: str | None) -> bool:
        """Whether a name is that of a project, a model or a training, but not of a checkpoint."""
        return name is not None and self.config_of(name) is not None and name not in self.checkpoints

    def all(self) -> list[str]:
        """Every name, for messages and completion."""
        return sorted({*self.projects, *self.models, *self.trainings, AUTO})


def is_config_file(name: str) -> bool:
    """Whether a name is that of a config file rather than of a model."""
    return name.endswith(CONFIG_SUFFIXES)


@lru_cache(maxsize=2)
def shipped_names(folder: Path | None = None) -> Names:
    """The names in a folder of projects; None for the shipped projects."""
    folder = folder or detrex_lite.SHIPPED_IN / "projects"
    trainings = {file.stem: file for file in sorted(folder.glob("*/configs/*.py")) if file.stem != "__init__"}
    importers: dict[str, list[Path]] = {}
    for file in trainings.values():
        for model in re.findall(r"^from \.models\.(\w+) import \(?[^)\n]*\bmodel\b", file.read_text(), re.MULTILINE):
            importers.setdefault(model, []).append(file)
    models = {model: min(files, key=_preference) for model, files in importers.items()}
    projects = {}
    for card in sorted(folder.glob("*/card.py")):
        match = re.search(r'^CONFIG = "models/(\w+)\.py"', card.read_text(), re.MULTILINE)
        if match and match[1] in models:
            projects[card.parent.name] = match[1]
    tables = [file.read_text() for file in folder.glob("*/zoo.py")]
    checkpoints = frozenset(name for table in tables for name in _TABLE_NAME.findall(table))
    return Names(projects, models, trainings, checkpoints)


def _preference(file: Path) -> tuple[int, int, str]:
    """Sort key for the trainings of a model: first by epochs, the fewest first, then on shapes, then all others."""
    epochs = _EPOCHS.search(file.stem)
    if epochs:
        return 0, int(epochs[1]), file.stem
    return (1 if file.stem.endswith("_shapes") else 2), 0, file.stem
