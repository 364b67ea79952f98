"""Builds the parts of a run from its config."""

import inspect
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.utils.data import DataLoader

from .. import distributed
from ..checkpoint import CheckpointError, load_checkpoint, read_checkpoint
from ..config import ConfigError, instantiate
from ..data import epoch_length
from ..errors import few
from ..inference.predictor import load_trained
from ..layers import BaseTransformerLayer
from ..ops.cpu import accelerate
from .loop.trainer import Hook
from .processes.determinism import name_own_kernels
from .processes.sharding import is_sharded
from .processes.signals import LeaveSignalsToParent

logger = logging.getLogger(__name__)


def build_loader(cfg: Any) -> Any:
    """Build the loader of a config node; its workers leave signals to this process."""
    loader = instantiate(cfg)
    if isinstance(loader, DataLoader):
        loader.worker_init_fn = LeaveSignalsToParent(loader.worker_init_fn)
    return loader


def build_evaluation(cfg: DictConfig, *, required: bool) -> tuple[Any, Any]:
    """Build (test loader, evaluator) of `dataloader`; (None, None) when the config has neither.

    Raises:
        ConfigError: when only one of them is missing, or both are missing although they are required.
    """
    names = ("dataloader.test", "dataloader.evaluator")
    missing = [name for name in names if OmegaConf.select(cfg, name) is None]
    if len(missing) == 2 and not required:
        return None, None
    if missing:
        raise ConfigError([f"the config has no {name}: evaluation needs a loader and an evaluator" for name in missing])
    return build_loader(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)


def build_hooks(train: DictConfig) -> list[Hook]:
    """Build the hooks of `train.hooks`.

    Raises:
        ConfigError: when one of them is not a `Hook`, or rejects its arguments.
    """
    hooks = instantiate(train.hooks)
    for index, hook in enumerate(hooks):
        if not isinstance(hook, Hook):
            raise ConfigError(f"train.hooks.{index} gives {hook!r}, which is not a detrex_lite.engine.Hook")
    return hooks


def build_optimizer(cfg: DictConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of `model`. As in detectron2, its `params` is a config node that is called with the model.

    Raises:
        ConfigError: when the optimizer or the function of the parameter groups rejects its arguments.
    """
    return instantiate(cfg, params=instantiate(cfg.params, model=model))


def synchronise_batch_norms(model: nn.Module) -> None:
    """Replace each trainable batch norm by one that computes its statistics over all processes, in place.

    Frozen batch norms are not changed. The number of replaced norms is logged, because most detectors have none.
    """
    count = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            is_plain = isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, nn.SyncBatchNorm)
            if is_plain and any(parameter.requires_grad for parameter in child.parameters()):
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
                count += 1
    logger.info("train.sync_batch_norm: %d batch norms take their statistics from all processes.", count)


def checkpoint_activations(model: nn.Module) -> None:
    """Make all transformer layers of `model` recompute their activations in the backward pass.

    Raises:
        ConfigError: when the model has no transformer layers.
    """
    layers = [module for module in model.modules() if isinstance(module, BaseTransformerLayer)]
    if not layers:
        raise ConfigError(f"train.activation_checkpointing=True: {type(model).__name__} has no transformer layers")
    for layer in layers:
        layer.activation_checkpointing = True


def prepare_for_training(
    model: nn.Module, train: DictConfig, device: torch.device, amp_dtype: torch.dtype | None
) -> None:
    """Move a model to its device, and apply the settings for batch norms, recomputation, determinism and speed."""
    if train.sync_batch_norm and distributed.is_distributed():
        synchronise_batch_norms(model)
    if train.activation_checkpointing:
        checkpoint_activations(model)
    if train.deterministic:
        name_own_kernels(model, device, amp_dtype or torch.float32)
    to_device(model, train, device)


def to_device(model: nn.Module, train: DictConfig, device: torch.device) -> None:
    """Move a model to its device, and accelerate it on a CPU unless `train.accelerate_cpu` is False."""
    model.to(device)
    if device.type == "cpu" and train.accelerate_cpu:
        accelerate(model)


def wrap_for_training(model: nn.Module, train: DictConfig) -> nn.Module:
    """Wrap the model for training: compile it if requested, and use DistributedDataParallel with several processes.

    Args:
        model: the model, on its device; the wrapper shares its weights. A sharded model exchanges gradients by itself
            and needs no DistributedDataParallel.
        train: the `train` section of the config.
    """
    if train.compile:
        model.compile()
    wrapped: Any = model
    if distributed.is_distributed() and not is_sharded(model):
        device = next(model.parameters()).device
        ddp: Any = nn.parallel.DistributedDataParallel
        # The name of the option in newer versions of torch.
        buffers = "forward_sync_buffers"
        if buffers not in inspect.signature(ddp).parameters:
            buffers = "broadcast_buffers"
        wrapped = ddp(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            **{buffers: train.ddp.broadcast_buffers},
            find_unused_parameters=train.ddp.find_unused_parameters,
            static_graph=train.static_graph,
        )
        if train.ddp.fp16_compression:
            from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

            wrapped.register_comm_hook(state=None, hook=default_hooks.fp16_compress_hook)
    return wrapped


def batches_per_epoch(loader: Iterable[Any]) -> int | None:
    """The number of batches in an epoch; None when it is not known."""
    try:
        return epoch_length(loader) if isinstance(loader, DataLoader) else None
    except ValueError:  # a custom loader of the user
        return None


def load_initial_weights(cfg: DictConfig, model: nn.Module, class_names: Sequence[str] = ()) -> None:
    """Load `train.init_checkpoint` into the model for fine-tuning, and log which parameters were loaded.

    In class heads and label embeddings, the rows of classes that the checkpoint has under the same name are loaded. All
    other classes, queries with other shapes and the parts listed in `train.init_new_parts` keep their initial values.

    Args:
        cfg: a complete config.
        model: the model.
        class_names: the class names of the data; empty when they are not known.

    Raises:
        CheckpointError: when the file cannot be read or belongs to another model.
    """
    path = cfg.train.init_checkpoint
    report = load_checkpoint(
        model,
        path,
        fine_tune=True,
        new_parts=tuple(cfg.train.init_new_parts),
        class_names=class_names,
        trusted=cfg.train.trust_init_checkpoint,
    )
    logger.info("Weights of %s:\n%s", path, report.summary())
    rows = report.rows
    if rows is not None and len(rows.here) == len(rows.there) and rows.new:
        logger.warning(
            "%s was trained on as many classes as the data has, but not on the same: %s start from scratch, in place "
            "of %s. If these are the same objects under other names, give the data the names of the checkpoint.",
            path,
            few(rows.new),
            few(rows.left),
        )


def load_weights_to_evaluate(cfg: DictConfig, model: nn.Module, class_names: tuple[str, ...]) -> None:
    """Load `train.init_checkpoint` into the model for evaluation.

    The average of the weights is used when there is one, unless `train.model_ema.use_in_eval` is False.

    Args:
        cfg: a complete config.
        model: the model.
        class_names: the class names of the data; empty when they are not known.

    Raises:
        CheckpointError: when the file cannot be read, lacks part of the model, or was trained on other classes.
    """
    path = cfg.train.init_checkpoint
    stored = read_checkpoint(path, trusted=cfg.train.trust_init_checkpoint)
    names = tuple(stored.get("class_names") or ())
    if names and class_names and names != class_names:
        raise CheckpointError(
            f"{path} was trained on the classes {', '.join(names)}; the test set has {', '.join(class_names)}"
        )
    report = load_trained(model, stored, path, prefer_ema=cfg.train.model_ema.use_in_eval)
    logger.info("Weights of %s:\n%s", path, report.summary())
