"""The facts about a project that a new project needs to extend it."""

import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from omegaconf import DictConfig

import detrex_lite

from ..config import get_config, locate
from ..errors import did_you_mean
from ..modeling.deformable import MultiScaleDetector
from .error import SkeletonError

_HEADING = re.compile(r"^# (.+)$", re.MULTILINE)
_MODEL_IMPORT = re.compile(r"^from \.models\.(\w+) import model$", re.MULTILINE)
# For sources without a small config: a config that makes a ResNet-50 model small, and a suitable training.
_MULTI_SCALE = ("common/small_deformable.py", "projects/deformable_detr/configs/deformable_detr_small_shapes.py")
_SINGLE_LEVEL = ("common/small_single_level.py", "projects/detr/configs/detr_small_shapes.py")


@dataclass(frozen=True)
class Source:
    """A project that a new one can extend.

    Attributes:
        name: name of its folder.
        title: the name in the heading of its README, such as "DINO".
        class_module: the module from which the class of its detector is imported.
        class_name: name of the class of its detector.
        model: name of its model config, for `get_config`.
        shrink: name of a config whose `small` makes that model small; None for a model that is already small.
        training: name of a training config on generated shapes, for `get_config`.
        multi_scale: whether the detector has deformable attention over several feature levels.
        test_changes: keys and values of the model's config that make its tests quick.
        num_groups: number of groups of denoising queries in these tests; None for a detector without denoising.
    """

    name: str
    title: str
    class_module: str
    class_name: str
    model: str
    shrink: str | None
    training: str
    multi_scale: bool
    test_changes: dict[str, int | None]
    num_groups: int | None


def source_names() -> list[str]:
    """The projects that a new one can extend: those with a small model, or with a ResNet-50 that can be made small."""
    projects = detrex_lite.SHIPPED_IN / "projects"
    names = sorted(path.parent.parent.name for path in projects.glob("*/configs/models"))
    return [name for name in names if _small_training(projects / name) or "_r50" in _main_config(name)]


def read_source(name: str) -> Source:
    """Read the facts about a project.

    Args:
        name: name of its folder, such as "dino".

    Raises:
        SkeletonError: the project does not exist, or none of its models can be made small.
    """
    folder = detrex_lite.SHIPPED_IN / "projects" / name
    names = source_names()
    if name not in names:
        if name.isidentifier() and (folder / "configs" / "models").is_dir():
            raise SkeletonError(
                f"the project {name!r} has no model that trains on a CPU in minutes, so a new project cannot start "
                f"from it; choices: {', '.join(names)}"
            )
        choices = f"; choices: {', '.join(names)}"
        raise SkeletonError(f"there is no project {name!r}{did_you_mean(name.lower(), names, otherwise=choices)}")
    training = _small_training(folder)
    if training is not None:
        imported = _MODEL_IMPORT.search(training.read_text(encoding="utf-8"))
        assert imported is not None, training
        model = f"projects/{name}/configs/models/{imported[1]}.py"
    else:
        model = f"projects/{name}/configs/{_main_config(name)}"
    cfg = get_config(model).model
    detector = locate(cfg._target_) if isinstance(cfg._target_, str) else cfg._target_
    multi_scale = issubclass(detector, MultiScaleDetector)
    shrink, shapes = _MULTI_SCALE if multi_scale else _SINGLE_LEVEL
    heading = _HEADING.search((folder / "README.md").read_text(encoding="utf-8"))
    return Source(
        name=name,
        title=heading[1].partition(":")[0] if heading else name,
        class_module=detector.__module__.rpartition(".")[0],
        class_name=detector.__name__,
        model=model,
        shrink=None if training else shrink,
        training=training.relative_to(detrex_lite.SHIPPED_IN).as_posix() if training else shapes,
        multi_scale=multi_scale,
        test_changes=_test_changes(cfg),
        num_groups=_num_groups(cfg.get("denoising")),
    )


def _small_training(project: Path) -> Path | None:
    """The project's training config on generated shapes, or None."""
    return next(iter(sorted(project.glob("configs/*_shapes.py"))), None)


def _main_config(name: str) -> str:
    """The main model config of a project, as a path below its `configs/`."""
    return str(import_module(f"detrex_lite.projects.{name}.card").CONFIG)


def _test_changes(model: DictConfig) -> dict[str, int | None]:
    """Config changes for quick tests: few layers, few denoising queries, and no heads of other detectors."""
    changes: dict[str, int | None] = {"transformer.decoder.num_layers": 2}
    changes |= {
        f"denoising.{key}": 6 for key in ("num_pairs", "num_positives") if key in (model.get("denoising") or {})
    }
    if "num_per_level" in (model.queries.get("selection") or {}):
        changes["queries.selection.num_per_level"] = 200  # tests have up to 320 queries
    if model.get("collaboration") is not None:
        changes["collaboration"] = None  # its queries depend on the objects
    return changes


def _num_groups(denoising: DictConfig | None) -> int | None:
    """The number of groups of denoising queries for images of at most two objects, with `_test_changes`."""
    if denoising is None:
        return None
    return denoising.get("num_groups", 3)
