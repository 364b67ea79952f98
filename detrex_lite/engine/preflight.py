"""What is checked before the first step, because it would otherwise fail after hours, or never."""

import copy
import difflib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from .. import distributed
from ..checkpoint.checkpointer import LAST
from ..config import ConfigError, LazyConfig
from ..config.saving import unsaved
from ..config.validation import unread_names
from ..errors import did_you_mean, few
from ..evaluation import run_evaluation
from ..metrics_file import METRICS_FILE, read_metrics
from .io.logs import LOG_FILE
from .processes.random_states import preserved_random_states

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yaml"


def check_output_dir(output_dir: Path, *, resume: bool) -> None:
    """Refuse a folder that holds another run: a checkpoint, or the numbers of a step.

    What a run leaves that failed before its first step is in nobody's way.

    Raises:
        ConfigError: when it does and the run is not resumed, or when a folder stands where a file is to be written.
    """
    for name in (LAST, METRICS_FILE, CONFIG_FILE, LOG_FILE):
        if (output_dir / name).is_dir():
            raise ConfigError(f"train.output_dir={output_dir}: {name} in it is a folder, where a file is to be written")
    traces = [path.name for path in (output_dir / LAST, *sorted(output_dir.glob("model_*.pth"))) if path.exists()]
    if (metrics := output_dir / METRICS_FILE).exists() and read_metrics(metrics, skip_broken=True):
        traces.append(METRICS_FILE)
    if traces and not resume:
        raise ConfigError(
            f"train.output_dir={output_dir} holds another run ({few(traces)}): continue it with "
            "--resume, or choose another folder with train.output_dir=..."
        )


def check_init_checkpoint(path: str | Path | None, *, required: bool = False) -> None:
    """Refuse a checkpoint that is neither a local file nor a folder, in which reading looks for one.

    Raises:
        ConfigError: when it is not, or is missing though it is required.
    """
    if not path:
        if required:
            raise ConfigError("evaluation needs weights: set train.init_checkpoint=path/to/model_final.pth")
        return
    if "://" in str(path):
        raise ConfigError(f"train.init_checkpoint={path}: addresses are not read; download the file and give its path")
    if not Path(path).exists():
        raise ConfigError(f"train.init_checkpoint={path}: there is no such file (looked from {Path.cwd()})")


def text_to_save(cfg: DictConfig) -> str:
    """The config of a run as YAML text: resolved, but for what comes from the environment.

    Keys at the top to which only interpolations referred, such as `dataset`, are left out: with values in place of the
    interpolations nothing would read them, and an override of them would do nothing.
    A warning in the log names what the text cannot hold; the run itself has these values. Permission to run code of a
    checkpoint is not kept.
    """
    cfg = copy.deepcopy(cfg)
    cfg.train.trust_init_checkpoint = False
    if lost := unsaved(cfg):
        logger.warning(
            "%s will not load again: it cannot hold %s. Put classes and functions into a module that Python can "
            "import, not into a config file or beside it by a relative import.",
            CONFIG_FILE,
            ", ".join(f"{path} ({description})" for path, description in lost.items()),
        )
    text = LazyConfig.to_yaml(cfg, resolve=True)
    saved: Any = OmegaConf.create(text)
    for name in unread_names(saved):
        del saved[name]
    comments = [line for line in text.splitlines() if line.startswith("#")]
    return "\n".join([*comments, OmegaConf.to_yaml(saved)])


def check_agreement(config: str, datasets: dict[str, Any]) -> None:
    """Make sure that all processes, which may be on several machines, train the same on the same.

    Args:
        config: the resolved config as YAML text.
        datasets: what the data set is for ("training", ...) -> data set, or None when it is not known.

    Raises:
        ConfigError: on every process, when configs or data sets differ.
    """
    sizes = {use: f"{len(d)} images, {d.num_boxes} boxes" for use, d in datasets.items() if d is not None}
    all_configs, all_sizes = zip(*distributed.all_gather_objects((config, sizes)), strict=True)
    for rank, (other, other_sizes) in enumerate(zip(all_configs, all_sizes, strict=True)):
        changes = difflib.unified_diff(all_configs[0].splitlines(), other.splitlines(), n=0, lineterm="")
        different = [line for line in changes if line[:3] not in ("---", "+++") and line[:2] != "@@"]
        if different:
            listed = "\n  ".join(different)
            raise ConfigError(f"process {rank} has another config than process 0:\n  {listed}")
        for use, size in all_sizes[0].items():
            if other_sizes.get(use) != size:
                raise ConfigError(
                    f"process {rank} has another {use} set than process 0: {other_sizes.get(use)}, and not {size}; do "
                    "all machines read the same files?"
                )


def category_ids_of(datasets: dict[str, Any]) -> tuple[int, ...]:
    """The category ids of the first data set that has any; empty when they are not known.

    Args:
        datasets: as for `check_classes`.
    """
    known = (tuple(getattr(dataset, "category_ids", ())) for dataset in datasets.values() if dataset is not None)
    return next(filter(None, known), ())


def check_classes(model: nn.Module, datasets: dict[str, Any]) -> tuple[str, ...]:
    """Compare the classes of the model and of all data sets.

    Args:
        model: with `num_classes`, if it says.
        datasets: what the data set is for ("training", ...) -> data set, or None when it is not known.

    Returns:
        The class names; empty when no data set has any.

    Raises:
        ConfigError: when they differ.
    """
    known = {use: tuple(d.class_names) for use, d in datasets.items() if d is not None}
    if not known:
        logger.info("The loaders do not tell their data sets: classes are not compared.")
        return ()
    (first_use, names), *others = known.items()
    for use, other in others:
        if other != names:
            raise ConfigError(
                f"the {first_use} and {use} sets have different classes: {_difference(names, other)}. Give "
                "both the same, in the same order (class_names=[...] of the data set)"
            )
    num_classes = getattr(model, "num_classes", len(names))
    if num_classes != len(names):
        raise ConfigError(
            f"the model has model.num_classes={num_classes}, but the {first_use} set "
            f"{datasets[first_use].name!r} has {len(names)} classes ({few(names)}): "
            f"set model.num_classes={len(names)}"
        )
    return names


def check_best_metric(evaluator: Any, name: str | None) -> None:
    """Refuse a `train.best_metric` that the evaluator will not give; one that does not tell its metrics gives any.

    Raises:
        ConfigError: when it will not.
    """
    names = getattr(evaluator, "metric_names", ())
    if name is not None and names and name not in names:
        raise ConfigError(f"train.best_metric={name!r} is no result of the evaluation{did_you_mean(name, names)}")


def try_evaluation(model: nn.Module, loader: Any, evaluator: Any) -> None:
    """Show one batch to the model and its detections to the evaluator, so that evaluation cannot fail later.

    Draws no random numbers from training. Errors are those of the model and the evaluator.
    """
    try:
        with preserved_random_states():
            run_evaluation(model, loader, evaluator, max_batches=1)
    except Exception:
        logger.error("Evaluating one batch before the start of training failed:")
        raise


def _difference(one: Sequence[str], other: Sequence[str]) -> str:
    if len(one) != len(other):
        return f"{len(one)} ({few(one)}) and {len(other)} ({few(other)})"
    pairs = [f"{k}: {a!r} and {b!r}" for k, (a, b) in enumerate(zip(one, other, strict=True)) if a != b]
    return few(pairs)
