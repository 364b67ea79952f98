"""Trains and evaluates a config by detectron2's trainer, hooks, checkpointer and evaluation loop.

This is the only module that imports detectron2; it is selected by `--engine detectron2`. Parts are built and checked as
for this package's engine, so that a config means the same under both. Settings that detectron2's trainer does not
support raise an error and are not ignored.
"""

import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf

from .. import distributed
from ..checkpoint import CheckpointError, read_checkpoint
from ..checkpoint.files import replace_text
from ..config import ConfigError, instantiate
from ..scalars import Scalars
from .build import build_optimizer, load_initial_weights, wrap_for_training
from .loop.hooks import Results
from .preflight import CONFIG_FILE, category_ids_of, try_evaluation
from .run import Run, evaluate_by, start


def train(cfg: DictConfig, *, resume: bool = False) -> Results:
    """Train like `detrex_lite.engine.train`, with the same arguments, errors, data and losses.

    A resumed run sees the same images as an uninterrupted one, but draws different random numbers, because detectron2
    does not save the random states. Signals end a run without a checkpoint. A ConfigError is also raised for settings
    that detectron2's trainer does not support.
    """
    return start(Detectron2Run, cfg, resume=resume)


def evaluate(cfg: DictConfig) -> Results:
    """Evaluate like `detrex_lite.engine.evaluate`, but by detectron2's loop and with its tables in the log."""

    def loop(model: Any, loader: Any, evaluator: Any) -> Results:
        _start_log(Path(cfg.train.output_dir).expanduser())
        return _evaluate(model, loader, evaluator)

    return evaluate_by(loop, cfg)


class Detectron2Run(Run):
    """A run whose steps are done by detectron2's trainer."""

    def __init__(self, cfg: DictConfig, output_dir: Path, *, resume: bool):
        if faults := list(_unsupported(cfg.train)):
            raise ConfigError(faults)
        _start_log(output_dir)
        super().__init__(cfg, output_dir, resume=resume)
        self.results: Results = {}  # of the last evaluation

    def train(self) -> Results:
        optimizer = build_optimizer(self.cfg.optimizer, self.model)
        trainer = self._build_trainer(optimizer)
        class_names = list(self.class_names)
        checkpointer = DetectionCheckpointer(self.model, str(self.output_dir), trainer=trainer)
        # Prediction and evaluation read the class names from the checkpoint.
        category_ids = list(category_ids_of(self._datasets()))
        checkpointer.save = partial(checkpointer.save, class_names=class_names, category_ids=category_ids)
        # With torch before 2.6 detectron2's reader would run code that a file contains.
        checkpointer._load_file = read_checkpoint
        trainer.register_hooks(list(self._hooks_of_detectron2(checkpointer)))
        first = 0
        if self.resume_from is not None:
            names = checkpointer.load(str(self.resume_from)).get("class_names", [])
            if names != class_names:
                raise CheckpointError(f"the run was trained on the classes {names}; the data has {class_names}")
            first = min(trainer.iter + 1, self.lengths.max_iter)
            if hasattr(sampler := getattr(self.train_loader, "batch_sampler", None), "start_batch"):
                sampler.start_batch = first  # type: ignore[union-attr]
        elif self.cfg.train.init_checkpoint:
            load_initial_weights(self.cfg, self.model, self.class_names)
        if self.test_loader is not None:
            try_evaluation(self.model, self.test_loader, self.evaluator)
        logging.getLogger(__name__).info("%s", self.summary(optimizer))
        if distributed.is_main_process():
            replace_text(self.output_dir / CONFIG_FILE, self.config_text)
        trainer.train(first, self.lengths.max_iter)
        return self.results

    def _build_trainer(self, optimizer: torch.optim.Optimizer) -> SimpleTrainer:
        parts = wrap_for_training(self.model, self.cfg.train), self.train_loader, optimizer
        if self.amp_dtype is None:
            return SimpleTrainer(*parts)
        scaler = torch.amp.GradScaler("cuda", enabled=self.amp_dtype is torch.float16)
        return AMPTrainer(*parts, precision=self.amp_dtype, grad_scaler=scaler)

    def _hooks_of_detectron2(self, checkpointer: DetectionCheckpointer) -> Iterator[HookBase]:
        train, lengths, on_main = self.cfg.train, self.lengths, distributed.is_main_process()
        yield hooks.IterationTimer()
        yield LogScalars()
        yield hooks.LRScheduler(scheduler=instantiate(self.cfg.lr_multiplier))
        if train.clip_grad.enabled:
            yield ClipGradients(**train.clip_grad.params)
        if on_main:
            period = lengths.checkpoint_period or lengths.max_iter
            yield hooks.PeriodicCheckpointer(checkpointer, period, max_to_keep=train.checkpointer.max_to_keep)
        if self.test_loader is not None:
            yield hooks.EvalHook(lengths.eval_period, self._evaluate_now)
            if train.best_metric is not None:
                yield hooks.BestCheckpointer(lengths.eval_period, checkpointer, train.best_metric)
        if on_main:
            yield hooks.PeriodicWriter(default_writers(str(self.output_dir), lengths.max_iter), train.log_period)

    def _evaluate_now(self) -> Results:
        self.results = _evaluate(self.model, self.test_loader, self.evaluator)
        return self.results


class LogScalars(HookBase):
    """Copies values that the main process logs by `detrex_lite.log_scalar` to detectron2's storage, after each step."""

    def __init__(self) -> None:
        self._step = contextlib.ExitStack()

    def before_step(self) -> None:
        self.scalars = Scalars()
        self._step.enter_context(self.scalars.listen())

    def after_step(self) -> None:
        self._step.close()
        for name, mean in self.scalars.means(torch.device("cpu")).items():
            self.trainer.storage.put_scalar(name, mean.item())

    def after_train(self) -> None:
        self._step.close()


class ClipGradients(HookBase):
    """Clips the norm of the gradient of all parameters; the arguments are those of `clip_grad_norm_`."""

    def __init__(self, **params: Any):
        self.params = params

    def after_backward(self) -> None:
        optimizer = self.trainer.optimizer
        if isinstance(self.trainer, AMPTrainer):
            self.trainer.grad_scaler.unscale_(optimizer)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        torch.nn.utils.clip_grad_norm_(parameters, **self.params)


def _unsupported(train: DictConfig) -> Iterator[str]:
    """One fault for each setting that would be ignored."""
    on_gpu = torch.device(train.device).type == "cuda"
    for key, is_set, limitation in (
        ("accumulate_steps", train.accumulate_steps != 1, "takes one batch a step"),
        ("model_ema.enabled", train.model_ema.enabled, "keeps no average of the weights"),
        ("fsdp", train.fsdp, "saves no weights that processes hold in parts"),
        ("wandb.enabled", train.wandb.enabled, "does not log to Weights & Biases"),
        ("mlflow.enabled", train.mlflow.enabled, "does not log to MLflow"),
        ("hooks", len(train.hooks) > 0, "takes hooks of its own kind only"),
        ("csv", train.csv, "writes no metrics.csv"),
        ("patience", train.patience is not None, "does not stop early"),
        ("amp.enabled", train.amp.enabled and not on_gpu, f"has mixed precision on GPUs only, not on {train.device}"),
    ):
        if is_set:
            yield f"train.{key}={OmegaConf.select(train, key)}: detectron2's trainer {limitation}"
    if train.clip_grad.enabled and not hasattr(HookBase, "after_backward"):
        yield "train.clip_grad.enabled=True: this detectron2 is too old for it; install the newest from its repository"


def _start_log(output_dir: Path) -> None:
    for name in ("detectron2", "fvcore"):
        setup_logger(str(output_dir), distributed_rank=distributed.rank(), name=name)


def _evaluate(model: Any, loader: Any, evaluator: Any) -> Results:
    results = inference_on_dataset(model, loader, evaluator)
    if distributed.is_main_process():
        print_csv_format(results)
    return results
