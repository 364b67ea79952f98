"""The `train` section of a config: completes it with defaults, checks it, and computes the lengths of a run."""

import contextlib
import copy
import importlib.util
import logging
import math
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from types import NoneType
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .. import distributed
from ..config import ConfigError, get_config, validate
from ..config.trusted import untrusted
from ..config.validation import FREE_KEYS, unknown_train_keys, unread_keys
from ..errors import did_you_mean
from .epochs import steps_of_epochs

logger = logging.getLogger(__name__)

NULL_TEXTS = ("train.init_checkpoint", "train.best_metric", "train.mlflow.experiment")  # may be null
_TEXTS, _TEXTS_OR_NULL = (str, PurePath), (str, PurePath, NoneType)
MOST_SEED = 2**32 - 2**16  # NumPy takes 32 bits, and each process adds its rank

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def complete(cfg: DictConfig, sections: Collection[str]) -> DictConfig:
    """Check a copy of `cfg` as a whole, and fill in defaults for the keys that its `train` section lacks.

    Args:
        cfg: a loaded config.
        sections: the required sections in addition to `model` and `train`.

    Raises:
        ConfigError: with all errors in the config, or with missing and malformed sections alone if there are any.
    """
    cfg = copy.deepcopy(cfg)
    if automatic := list(_automatic_values(cfg)):
        raise ConfigError(automatic)
    faults = [fault for name in ("model", "train", *sections) for fault in _section_faults(cfg, name)]
    if faults:  # references to these sections would only cause more errors
        raise ConfigError(faults)
    defaults = get_config("common/train.py").train
    # The default of max_iter is for engines without epochs, and may read the data. This engine instead counts the
    # batches of its loader.
    computed = _as_written(defaults, "max_iter")
    for section in (defaults, cfg.train):
        if _as_written(section, "max_iter") == computed:
            section.max_iter = None
    try:
        validate(cfg)
    except ConfigError as error:
        faults += error.faults
    faults += unread_keys(cfg)
    faults += _wrong_trust(cfg.train)
    # Interpolations that cannot be resolved have been reported by `validate`.
    with contextlib.suppress(OmegaConfBaseException):
        faults += unknown_train_keys(cfg)
        cfg.train = OmegaConf.merge(defaults, cfg.train)
        wrong_types = list(_wrong_types(cfg.train, defaults))
        faults += [fault for fault in wrong_types if fault not in faults] if wrong_types else _wrong_values(cfg.train)
    if faults:
        raise ConfigError(faults)
    for key in ("output_dir", "init_checkpoint"):
        if str(cfg.train[key]).startswith("~"):  # other values stay unresolved, as they may read the environment
            cfg.train[key] = os.path.expanduser(cfg.train[key])
    return cfg


AUTOMATIC = {
    "dataloader.train.total_batch_size": "give a number; detrex-lite train ... --find-batch-size measures the largest "
    "that fits",
    "optimizer.lr": "give a number; detrex-lite train ... --find-lr measures suitable ones",
    "train.device": "leave it out: the default is a GPU where torch sees one, otherwise the CPU",
    "train.max_epochs": "give a number of epochs; train.patience ends a run that does not improve",
    "train.max_iter": "give a number of steps, or train.max_epochs; train.patience ends a run that does not improve",
    "dataloader.train.num_workers": "give a number of processes; 0 loads images in the process that trains",
    "dataloader.test.batch_size": "give a number; it does not change the detections",
    "dataloader.test.num_workers": "give a number of processes; 0 loads images in the process that evaluates",
}
"""Keys that other programs choose automatically for the value `auto`, with advice for this one."""


def _automatic_values(cfg: DictConfig) -> Iterator[str]:
    """One fault for each value that requests an automatic choice, which is not supported: `auto`, or -1 for batches."""
    for key, advice in AUTOMATIC.items():
        with contextlib.suppress(OmegaConfBaseException, AttributeError):  # these faults are found later
            value = OmegaConf.select(cfg, key)
            is_batch = key.endswith("batch_size") and value == -1 and not isinstance(value, bool)
            if is_batch or (isinstance(value, str) and value.lower() == "auto"):
                yield f"{key}={value} is not supported: {advice}"


def _section_faults(cfg: DictConfig, name: str) -> Iterator[str]:
    """The faults of a section as a whole: it is missing, or is not a section."""
    written = _as_written(cfg, name)
    if name not in cfg:
        yield f"the config has no {name!r}"
    elif name == "train" and isinstance(written, str):
        yield f"train={written!r} must be a dict itself: it says what this run trusts"
    elif isinstance(written, (list, int, float, NoneType)) or (isinstance(written, str) and "${" not in written):
        yield f"{name}={'null' if written is None else repr(written)} is not a section of a config"


def _wrong_trust(train: DictConfig) -> Iterator[str]:
    """One fault for each value that grants trust in a place where a config cannot do so."""
    written = _as_written(train, "trust_init_checkpoint")
    if not isinstance(written, (bool, NoneType)):
        yield f"train.trust_init_checkpoint={written!r} must be True or False, written as a plain value"
    names = _as_written(train, "trusted")
    if not isinstance(names, (list, NoneType)):
        yield f"train.trusted={names!r} must be a list of packages, in a Python config"
    elif missing := untrusted(list(map(str, names or ()))):
        flags = " ".join(f"--trust {name}" for name in missing)
        yield f"train.trusted={missing} is only allowed in a Python config; if you trust these packages: {flags}"


def _wrong_types(train: Any, defaults: Any, path: str = "train") -> Iterator[str]:
    """One fault for each value whose type differs from that of a default which is a dict, text, a list or a bool."""
    for key, default in defaults.items():
        name, value = f"{path}.{key}", train[key]
        if isinstance(default, DictConfig) and not isinstance(value, DictConfig):
            keys = "" if name in FREE_KEYS else f" with the keys {', '.join(map(str, default))}"
            yield f"{name}={value!r} is not a dict{keys}"
        elif isinstance(default, DictConfig) and name not in FREE_KEYS:
            yield from _wrong_types(value, default, name)
        elif isinstance(default, bool) and not isinstance(value, bool):
            yield f"{name}={value!r} must be True or False"
        elif isinstance(default, ListConfig) and not isinstance(value, ListConfig):
            yield f"{name}={value!r} must be a list"
        elif isinstance(default, str) and not isinstance(value, _TEXTS_OR_NULL if name in NULL_TEXTS else _TEXTS):
            yield f"{name}={value!r} must be text"


def _as_written(section: DictConfig, key: str) -> Any:
    """The value of a key as written in the config, without resolving interpolations."""
    return OmegaConf.to_container(section, resolve=False).get(key)  # type: ignore[union-attr]


def _wrong_values(train: DictConfig) -> Iterator[str]:
    """One fault for each value with which training is not possible."""
    for key in ("accumulate_steps", "log_period"):
        if not _is_whole(train[key], at_least=1):
            yield f"train.{key}={train[key]!r} must be a whole number from 1"
    for key in ("max_iter", "checkpointer.period", "checkpointer.max_to_keep", "eval_period", "patience"):
        value = OmegaConf.select(train, key)
        least = 0 if key in ("checkpointer.period", "eval_period") else 1
        if value is not None and not _is_whole(value, at_least=least):
            yield f"train.{key}={value!r} must be a whole number from {least}, or null"
    for key in ("max_epochs", "checkpoint_epochs", "eval_epochs"):
        if train[key] is not None and not (_is_number(train[key]) and train[key] > 0):
            yield f"train.{key}={train[key]!r} must be a number above 0, or null"
    if not _is_whole(train.seed, at_least=0) or train.seed > MOST_SEED:
        yield f"train.seed={train.seed!r} must be a whole number from 0 to {MOST_SEED}"
    if not str(train.output_dir).strip():
        yield f"train.output_dir={train.output_dir!r} must be the path of a folder"
    if train.amp.dtype not in AMP_DTYPES:
        hint = did_you_mean(str(train.amp.dtype), AMP_DTYPES)
        yield f"train.amp.dtype={train.amp.dtype!r} is unknown{hint}"
    if not _is_number(train.model_ema.decay) or not 0 <= train.model_ema.decay < 1:
        yield f"train.model_ema.decay={train.model_ema.decay!r} must be a number in [0, 1)"
    if not _is_whole(train.model_ema.warmup, at_least=0):
        yield f"train.model_ema.warmup={train.model_ema.warmup!r} must be a whole number from 0"
    yield from _wrong_restart(train.model_ema)
    max_norm = train.clip_grad.params.get("max_norm")
    if train.clip_grad.enabled and not (_is_number(max_norm) and max_norm > 0):
        yield f"train.clip_grad.params.max_norm={max_norm!r} must be a number above 0"
    if train.wandb.enabled and importlib.util.find_spec("wandb") is None:
        yield "train.wandb.enabled=True needs Weights & Biases: pip install wandb"
    if train.mlflow.enabled and importlib.util.find_spec("mlflow") is None:
        yield "train.mlflow.enabled=True needs MLflow: pip install mlflow"
    yield from _wrong_device(str(train.device))
    yield from _wrong_together(train)


def _wrong_restart(average: DictConfig) -> Iterator[str]:
    restart = average.restart
    if restart.epoch is not None and not (_is_number(restart.epoch) and restart.epoch > 0):
        yield f"train.model_ema.restart.epoch={restart.epoch!r} must be a number above 0, or null"
    if restart.epoch is not None and not average.enabled:
        yield f"train.model_ema.restart.epoch={restart.epoch!r} needs train.model_ema.enabled=True"
    if not _is_number(restart.decay) or not 0 <= restart.decay < 1:
        yield f"train.model_ema.restart.decay={restart.decay!r} must be a number in [0, 1)"
    if not _is_number(restart.decay_step) or restart.decay_step < 0:
        yield f"train.model_ema.restart.decay_step={restart.decay_step!r} must be a number from 0"


def _wrong_device(name: str) -> Iterator[str]:
    try:
        device = torch.device(name)
    except RuntimeError:
        yield f"train.device={name!r} is not a device; use cpu or cuda"
        return
    if device.type == "cuda" and not torch.cuda.is_available():
        yield f"train.device={name!r}: torch {torch.__version__} sees no CUDA GPU here; use train.device=cpu"
    if device.type == "cuda" and device.index is not None and distributed.is_distributed():
        yield (
            f"train.device={name!r} is one GPU for {distributed.world_size()} processes: each takes its own with "
            "train.device=cuda; CUDA_VISIBLE_DEVICES chooses among the GPUs of a machine"
        )


def _wrong_together(train: DictConfig) -> Iterator[str]:
    """One fault for each pair of incompatible values."""
    if train.sync_batch_norm and str(train.device) == "cpu" and distributed.is_distributed():
        yield "train.sync_batch_norm=True needs GPUs: torch cannot synchronise batch norms on train.device=cpu"
    if train.deterministic and train.cudnn_benchmark:
        yield "train.cudnn_benchmark=True chooses kernels by their speed, which train.deterministic=True excludes"
    if train.static_graph and train.accumulate_steps != 1:
        yield "train.static_graph=True does not go together with train.accumulate_steps above 1"
    if not train.fsdp:
        return
    if not hasattr(torch.distributed.fsdp, "fully_shard"):
        yield f"train.fsdp=True needs torch 2.6 or newer, this is {torch.__version__}"
    if train.amp.enabled and train.amp.dtype == "fp16":
        yield "train.fsdp=True has no loss scaling, which train.amp.dtype=fp16 needs; use bf16"
    for key in ("compile", "static_graph"):
        if train[key]:
            yield f"train.{key}=True does not go together with train.fsdp=True"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any, at_least: float) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least


@dataclass(frozen=True)
class Lengths:
    """The length of a run and its periods, in optimizer steps.

    Attributes:
        max_iter: steps of the whole run.
        eval_period: steps between two evaluations; 0: at the end only.
        checkpoint_period: steps between two checkpoints; 0: at the end only.
        epoch: steps of one pass over the training set, usually not a whole number; None when not known.
    """

    max_iter: int
    eval_period: int
    checkpoint_period: int
    epoch: float | None

    @classmethod
    def of(cls, train: DictConfig, batches_per_epoch: int | None) -> "Lengths":
        """Read the lengths from the `train` section. If one is given both in steps and in epochs, the shorter is used.

        Args:
            train: the complete section.
            batches_per_epoch: of the training loader; None when not known.

        Raises:
            ConfigError: when the run has no length, or has a length in epochs although the batches per epoch are not
                known.
        """
        epoch = None if batches_per_epoch is None else batches_per_epoch / train.accumulate_steps
        in_epochs = {key: train[key] for key in ("max_epochs", "eval_epochs", "checkpoint_epochs")}
        in_epochs["model_ema.restart.epoch"] = train.model_ema.restart.epoch
        epoch_keys = [f"train.{key}" for key, value in in_epochs.items() if value is not None]
        if epoch_keys and epoch is None:
            raise ConfigError(
                f"{', '.join(epoch_keys)}: the training loader does not say how many batches make an epoch (those "
                "of build_train_loader do); give lengths in iterations: train.max_iter, train.eval_period, "
                "train.checkpointer.period"
            )

        def shorter(steps_key: str, epochs_key: str) -> int:
            steps, epochs = OmegaConf.select(train, steps_key), train[epochs_key]
            if epochs is None or epoch is None:
                return steps or 0
            from_epochs = steps_of_epochs(epochs, epoch)
            if steps and steps < from_epochs:
                logger.warning(
                    "train.%s=%s would be %d steps, but train.%s=%d is shorter and counts; null switches it off.",
                    epochs_key,
                    epochs,
                    from_epochs,
                    steps_key,
                    steps,
                )
            return min(steps or from_epochs, from_epochs)

        max_iter = shorter("max_iter", "max_epochs")
        if max_iter == 0:
            raise ConfigError("the run has no length: set train.max_epochs or train.max_iter")
        return cls(
            max_iter=max_iter,
            eval_period=shorter("eval_period", "eval_epochs"),
            checkpoint_period=shorter("checkpointer.period", "checkpoint_epochs"),
            epoch=epoch,
        )

    def steps(self, epochs: float | None) -> int | None:
        """The number of steps in `epochs` epochs; None for None."""
        if epochs is None:
            return None
        assert self.epoch is not None  # otherwise `of` has raised an error
        return steps_of_epochs(epochs, self.epoch)


def check_ema_restart(train: DictConfig, lengths: Lengths, *, evaluated: bool) -> None:
    """Make sure that a run has a best checkpoint by the time of the restart from it.

    Args:
        train: the complete section.
        lengths: the lengths of the run.
        evaluated: whether there are evaluations.

    Raises:
        ConfigError: when there are no evaluations, no metric is compared, or the first evaluation is after the restart.
    """
    iteration = lengths.steps(train.model_ema.restart.epoch)
    if iteration is None or iteration >= lengths.max_iter:
        return
    setting = f"train.model_ema.restart.epoch={train.model_ema.restart.epoch}"
    if not evaluated or train.best_metric is None:
        raise ConfigError(
            f"{setting} goes back to the best checkpoint: it needs dataloader.test, dataloader.evaluator and "
            "train.best_metric"
        )
    if not 0 < lengths.eval_period <= iteration:
        raise ConfigError(
            f"{setting} goes back to the best checkpoint, and there is no evaluation by then: set train.eval_epochs=1"
        )


def check_patience(train: DictConfig, lengths: Lengths, *, evaluated: bool) -> None:
    """Make sure that a run with early stopping has evaluations to compare.

    Args:
        train: the complete section.
        lengths: the lengths of the run.
        evaluated: whether there are evaluations.

    Raises:
        ConfigError: when there are no evaluations before the end, or no metric is compared.
    """
    if train.patience is None:
        return
    setting = f"train.patience={train.patience} counts evaluations without an improvement"
    if not evaluated or train.best_metric is None:
        raise ConfigError(f"{setting}: it needs dataloader.test, dataloader.evaluator and train.best_metric")
    if lengths.eval_period == 0:
        raise ConfigError(f"{setting}, and there is no evaluation before the end: set train.eval_epochs=1")
