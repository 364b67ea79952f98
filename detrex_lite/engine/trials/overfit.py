"""Checks that a recipe can overfit a few images: a recipe that cannot do so will learn nothing from many images."""

import contextlib
import copy
import logging
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from ...config import ConfigError, locate
from ...config import LazyCall as L
from ...config.targets import accepted_names
from ...data import images_with_objects
from ..io.logs import terminal_logging
from ..loop.hooks import flatten
from ..loop.schedule import constant
from ..loop.trainer import Hook, Trainer
from ..run import train

logger = logging.getLogger(__name__)

STEPS = 500
LEARNT = 75.0  # AP at which the images count as learnt
EVALUATIONS = 10  # per run
STILL_FALLING = 0.95  # the loss is still falling when its ratio between the last two fifths of the run is below this


class Overfit(NamedTuple):
    """The result of `overfit`.

    Attributes:
        learnt: whether the metric reached `LEARNT`.
        metric: the name of the metric, such as "bbox/AP".
        value: its best value.
        steps: the number of steps that were run.
        losses: the total loss of each step.
        output_dir: the folder of the log, metrics and report.
    """

    learnt: bool
    metric: str
    value: float
    steps: int
    losses: list[float]
    output_dir: Path


class _Watch(Hook):
    """Records the losses and the best value of a metric, and ends training when that value reaches `LEARNT`."""

    def __init__(self, metric: str):
        self.metric = metric
        self.best = 0.0
        self.losses: list[float] = []

    def after_step(self, trainer: Trainer) -> None:
        self.losses.append(float(sum(trainer.losses.values())))
        self.best = max(self.best, flatten(trainer.results).get(self.metric, 0.0))
        if self.best >= LEARNT:
            trainer.end_early()


def overfit(cfg: DictConfig, num_images: int, *, steps: int = STEPS) -> Overfit:
    """Train on a few images without augmentation, evaluate on the same images, and report whether they were learnt.

    The trial has its own batch and schedule: batches of at most `num_images`, a constant learning rate, and no running
    mean of the weights. Model, losses, optimizer, resizing and precision are those of the recipe.

    Args:
        cfg: a config as `train` takes it, with data for training and an evaluator.
        num_images: how many training images to use: the first ones that have objects.
        steps: the maximum number of steps.

    Returns:
        The result. Log, metrics and report are in a new folder overfit, overfit_2, ... in `train.output_dir`, without a
        checkpoint.

    Raises:
        ConfigError: when the config has no data set to take images from, or no evaluator.
    """
    cfg = overfit_config(cfg, num_images, steps=steps)
    watch = _Watch(cfg.train.best_metric)
    output_dir = Path(cfg.train.output_dir)
    results = train(cfg, hooks=[watch])
    best = max(watch.best, flatten(results).get(watch.metric, 0.0))
    for checkpoint in (*output_dir.glob("model_*.pth"), output_dir / "last_checkpoint"):
        checkpoint.unlink(missing_ok=True)
    result = Overfit(best >= LEARNT, watch.metric, best, len(watch.losses), watch.losses, output_dir)
    with terminal_logging():
        logger.info("%s", verdict(result, num_images))
    return result


def overfit_config(cfg: DictConfig, num_images: int, *, steps: int) -> DictConfig:
    """The config of `overfit`."""
    cfg = copy.deepcopy(cfg)
    if num_images < 1:
        raise ConfigError(f"--overfit {num_images}: at least one image is needed")
    for key in ("dataloader.train.dataset", "dataloader.test", "dataloader.evaluator", "train"):
        if OmegaConf.select(cfg, key) is None:
            raise ConfigError(f"--overfit needs {key} in the config")
    train_loader, test_loader = cfg.dataloader.train, cfg.dataloader.test
    few = L(images_with_objects)(dataset=train_loader.dataset, number=num_images)
    changes: dict[str, Any] = {
        "dataset": few,
        "total_batch_size": min(num_images, int(train_loader.get("total_batch_size", num_images))),
        "num_workers": 0,
        "limit": None,
        "aspect_ratio_grouping": False,
        "mixup": None,
        "multi_scale": None,
    }
    accepted = accepted_names(locate(train_loader._target_) if isinstance(train_loader._target_, str) else None)
    for key, value in changes.items():
        if key in accepted or key in train_loader:
            train_loader[key] = value
    augmentation = OmegaConf.select(test_loader, "mapper.augmentation")
    if OmegaConf.select(train_loader, "mapper") is not None:
        train_loader.mapper.augmentation = augmentation
    test_loader.dataset, test_loader.num_workers = few, 0
    if "dataset" in cfg.dataloader.evaluator:
        cfg.dataloader.evaluator.dataset = few
    cfg.lr_multiplier = L(constant)(warmup_length=0.0, warmup_factor=1.0)
    _set_length(cfg, steps)
    return cfg


def _set_length(cfg: DictConfig, steps: int) -> None:
    train_section = cfg.train
    changes: dict[str, Any] = {
        "max_iter": steps,
        "max_epochs": None,
        "eval_period": max(1, steps // EVALUATIONS),
        "eval_epochs": None,
        "checkpoint_epochs": None,
        "checkpointer": {"period": 0, "max_to_keep": 1},
        "patience": None,
        "accumulate_steps": 1,
        "model_ema": {"enabled": False, "restart": {"epoch": None}},
        "wandb": {"enabled": False},
        "mlflow": {"enabled": False},
        "hooks": [],
        "output_dir": _free_folder(Path(str(train_section.get("output_dir") or "output")).expanduser()),
    }
    cfg.train = OmegaConf.merge(train_section, changes)
    if cfg.train.get("best_metric") is None:
        cfg.train.best_metric = "bbox/AP"


def _free_folder(output_dir: Path) -> str:
    number = 1
    while (folder := output_dir / ("overfit" if number == 1 else f"overfit_{number}")).exists():
        number += 1
    return str(folder)


def verdict(result: Overfit, num_images: int) -> str:
    """The result as a sentence, with advice."""
    images = f"the {num_images} image{'s' * (num_images != 1)} it was trained on"
    measured = f"{result.metric} is {result.value:.1f} on {images}, after {result.steps} steps"
    if result.learnt:
        return (
            f"The recipe can learn: {measured}. If it fails on other images, it needs more data, more training or "
            "augmentation."
        )
    fifth = max(1, len(result.losses) // 5)
    last, previous = (sum(part) / fifth for part in (result.losses[-fifth:], result.losses[-2 * fifth : -fifth]))
    with contextlib.suppress(ZeroDivisionError):
        if last < STILL_FALLING * previous:
            return (
                f"Not learnt yet: {measured}, and the loss is still falling ({previous:.3g} to {last:.3g}). Give it "
                f"more steps: --overfit-steps {2 * result.steps}."
            )
    return (
        f"The recipe does not learn: {measured}, and the loss no longer falls ({previous:.3g} to {last:.3g}). Look at "
        "the boxes and classes (--dry-run draws them), at the learning rate (--find-lr), and at parts that are frozen; "
        f"pictures of its detections are in {result.output_dir}/report.html."
    )
