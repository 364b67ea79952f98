"""Checks before the first step, for errors that would otherwise occur after hours or stay unnoticed."""

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
    """Make sure that the folder does not hold another run, that is, a checkpoint or metrics.

    The files of a run that failed before its first step are ignored.

    Raises:
        ConfigError: when the folder holds a run that is not resumed, or has a subfolder with the name of a file that is
            to be written.
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
    """Make sure that a checkpoint is a local file, or a folder in which the reader looks for one.

    Raises:
        ConfigError: when the path does not exist or is a URL, or no path is set although it is required.
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
    """The config of a run as YAML text, with all interpolations resolved except those of environment variables.

    Top-level keys to which only interpolations refer, such as `dataset`, are left out: once the interpolations are
    resolved, nothing reads these keys and overriding them would have no effect.
    A warning is logged for values that YAML cannot represent; the run itself uses them. The permission to run code from
    a checkpoint is not saved.
    """
    cfg = copy.deepcopy(cfg)
    cfg.train.trust_init_checkpoint = False
    if lost := unsaved(cfg):
        logger.warning(
            "%s will not load again: it cannot hold %s. Put classes and functions into a module that Python can "
            "import, not into a config file or a file next to it that is imported relatively.",
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
    """Make sure that all processes, which may be on several machines, have the same config and data.

    Args:
        config: the resolved config as YAML text.
        datasets: use ("training", ...) -> data set, or None when it is not known.

    Raises:
        ConfigError: on every process, when configs or data sets differ.
    """
    sizes = {
        use: f"{len(dataset)} images, {dataset.num_boxes} boxes"
        for use, dataset in datasets.items()
        if dataset is not None
    }
    all_configs, all_sizes = zip(*distributed.all_gather_objects((config, sizes)), strict=True)
    for rank, (rank_config, rank_sizes) in enumerate(zip(all_configs, all_sizes, strict=True)):
        changes = difflib.unified_diff(all_configs[0].splitlines(), rank_config.splitlines(), n=0, lineterm="")
        different = [line for line in changes if line[:3] not in ("---", "+++") and line[:2] != "@@"]
        if different:
            listed = "\n  ".join(different)
            raise ConfigError(f"process {rank} has another config than process 0:\n  {listed}")
        for use, size in all_sizes[0].items():
            if rank_sizes.get(use) != size:
                raise ConfigError(
                    f"process {rank} has another {use} set than process 0: {rank_sizes.get(use)}, and not {size}; do "
                    "all machines read the same files?"
                )


def category_ids_of(datasets: dict[str, Any]) -> tuple[int, ...]:
    """The category ids of the first data set that has any; empty when they are not known.

    Args:
        datasets: as for `check_classes`.
    """
    category_ids = (tuple(getattr(dataset, "category_ids", ())) for dataset in datasets.values() if dataset is not None)
    return next(filter(None, category_ids), ())


def check_classes(model: nn.Module, datasets: dict[str, Any]) -> tuple[str, ...]:
    """Compare the classes of the model and of all data sets.

    Args:
        model: the model; its classes are compared when it has `num_classes`.
        datasets: use ("training", ...) -> data set, or None when it is not known.

    Returns:
        The class names; empty when no data set is known.

    Raises:
        ConfigError: when the classes differ.
    """
    class_names = {use: tuple(dataset.class_names) for use, dataset in datasets.items() if dataset is not None}
    if not class_names:
        logger.info("The data sets of the loaders are not known: classes are not compared.")
        return ()
    (first_use, names), *further = class_names.items()
    for use, further_names in further:
        if further_names != names:
            raise ConfigError(
                f"the {first_use} and {use} sets have different classes: {_difference(names, further_names)}. Give "
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
    """Make sure that the evaluator returns `train.best_metric`; evaluators without `metric_names` are not checked.

    Raises:
        ConfigError: when the metric is not among `metric_names`.
    """
    names = getattr(evaluator, "metric_names", ())
    if name is not None and names and name not in names:
        raise ConfigError(f"train.best_metric={name!r} is not a result of the evaluation{did_you_mean(name, names)}")


def try_evaluation(model: nn.Module, loader: Any, evaluator: Any) -> None:
    """Evaluate one batch, so that errors of the model or the evaluator occur now and not at the first evaluation.

    The random states are preserved. Errors of the model and the evaluator are raised unchanged.
    """
    try:
        with preserved_random_states():
            run_evaluation(model, loader, evaluator, max_batches=1)
    except Exception:
        logger.error("Evaluating one batch before the start of training failed:")
        raise


def _difference(first: Sequence[str], second: Sequence[str]) -> str:
    if len(first) != len(second):
        return f"{len(first)} ({few(first)}) and {len(second)} ({few(second)})"
    pairs = [f"{k}: {a!r} and {b!r}" for k, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    return few(pairs)
