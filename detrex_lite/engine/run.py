"""Trains and evaluates the model of a config: builds the parts, checks them, connects them and runs them."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from .. import distributed
from ..checkpoint import Checkpointer
from ..checkpoint.files import replace_text
from ..config import instantiate
from ..data import dataset_of
from ..evaluation import format_table, run_evaluation
from ..inference.predictor import without_pretrained_backbone
from ..metrics_file import METRICS_FILE
from .build import (
    batches_per_epoch,
    build_evaluation,
    build_hooks,
    build_loader,
    build_optimizer,
    load_initial_weights,
    load_weights_to_evaluate,
    prepare_for_training,
    to_device,
    wrap_for_training,
)
from .io.folder import LOCK_FILE, owned_output_dir, removed_when_refused, require_owned
from .io.logs import LOG_FILE, run_logging
from .io.report import RunReport, SampleKeeper, write_pages
from .io.state import TrainingState
from .io.summary import describe_device, describe_run
from .io.writers import Writer, open_writers
from .loop.ema import ModelEma
from .loop.ema_restart import EmaRestart
from .loop.hooks import EmaUpdate, Evaluation, LearningRate, OwnFolder, PeriodicCheckpoint, Results
from .loop.progress import ProgressLog
from .loop.trainer import Hook, Trainer
from .preflight import (
    CONFIG_FILE,
    category_ids_of,
    check_agreement,
    check_best_metric,
    check_classes,
    check_init_checkpoint,
    check_output_dir,
    text_to_save,
    try_evaluation,
)
from .processes.determinism import deterministic_algorithms
from .processes.failures import failures_in_log
from .processes.launch import times_restarted
from .processes.random_states import seed_everything
from .processes.sharding import shard, take_weights_of_main_process, whole_weights
from .processes.signals import StopOnSignal
from .regrets import warn_of_regrets
from .settings import AMP_DTYPES, Lengths, check_ema_restart, check_patience, complete

logger = logging.getLogger(__name__)


def train(cfg: DictConfig, *, resume: bool = False, hooks: Sequence[Hook] = ()) -> Results:
    """Train the model of a config, with periodic evaluation and checkpoints.

    Args:
        cfg: a config with `model`, `dataloader`, `optimizer`, `lr_multiplier` and `train`; it is not modified.
            Without `dataloader.test` and `.evaluator` there is no evaluation.
        resume: continue the run in `train.output_dir`, exactly as if it had not been interrupted, or start it when
            there is no checkpoint yet. Processes that torchrun has restarted always resume.
        hooks: run in addition to those of `train.hooks` and after them, but before the log and the checkpoint of each
            step. Checkpoints do not include their state.

    Returns:
        The results of the last evaluation.

    Raises:
        ConfigError: before training, for all errors in the config, its data and its folders.
        NonFiniteError: when the loss or the gradient is not finite.
        LostProcessError: when another training process, or a process that loads images, was killed.
        LostFolderError: when `train.output_dir` was removed during the run.
        SystemExit: with status 128 + the signal's number, after saving a checkpoint, when a signal (SIGTERM, Ctrl-C,
            SIGHUP, SIGUSR1) ended the run.
    """
    return start(Run, cfg, resume=resume, hooks=hooks)


def start(kind: type["Run"], cfg: DictConfig, *, resume: bool, hooks: Sequence[Hook] = ()) -> Results:
    """`train` with a subclass of `Run`, whose steps may be those of another engine."""
    cfg = complete(cfg, sections=("dataloader", "optimizer", "lr_multiplier"))
    output_dir = Path(cfg.train.output_dir)
    # After a restart by torchrun the folder belongs to the earlier processes. Each machine counts its own restarts.
    resume = resume or distributed.any_process(times_restarted() > 0, torch.device(cfg.train.device))
    if not (resume and Checkpointer(output_dir).has_checkpoint()):
        check_init_checkpoint(cfg.train.init_checkpoint)
    with ExitStack() as stack:
        if distributed.is_main_process():
            stack.enter_context(removed_when_refused(output_dir, written=(LOCK_FILE, LOG_FILE)))
        distributed.from_main_process(lambda: _claim(output_dir, resume, stack))
        stack.enter_context(run_logging(output_dir))
        stack.enter_context(failures_in_log())
        stack.enter_context(deterministic_algorithms(cfg.train.deterministic))
        run = kind(cfg, output_dir, resume=resume)
        run.further_hooks += hooks
        try:
            return run.train()
        except Exception:
            require_owned(output_dir)  # a lost folder makes writers fail with errors of their own, so report it first
            raise


def _claim(output_dir: Path, resume: bool, stack: ExitStack) -> None:
    """Lock the folder until `stack` is closed, and prepare it for this run."""
    stack.enter_context(owned_output_dir(output_dir))
    check_output_dir(output_dir, resume=resume)
    Checkpointer(output_dir).remove_leftovers()


def evaluate(cfg: DictConfig) -> Results:
    """Evaluate the weights in `train.init_checkpoint` on `dataloader.test`, and log the table of results.

    `report.html` in `train.output_dir` lists the kinds of errors in the detections, with pictures of the worst images.

    The average of the weights is used when there is one, unless `train.model_ema.use_in_eval` is False.

    Returns:
        The results of the evaluator: `{"bbox": {"AP": ...}}`.

    Raises:
        ConfigError: when there are errors in the config or its data.
        CheckpointError: when the checkpoint cannot be read or does not fit.
    """
    return evaluate_by(_evaluate, cfg)


def evaluate_by(loop: Callable[[Any, Any, Any], Results], cfg: DictConfig) -> Results:
    """`evaluate` with a function of (model, loader, evaluator), which may be that of another engine."""
    cfg = complete(cfg, sections=("dataloader",))
    check_init_checkpoint(cfg.train.init_checkpoint, required=True)
    device = torch.device(cfg.train.device)
    output_dir = Path(cfg.train.output_dir)
    with ExitStack() as stack:
        if distributed.is_main_process():
            stack.enter_context(removed_when_refused(output_dir, written=(LOG_FILE,)))
        stack.enter_context(run_logging(output_dir))
        stack.enter_context(failures_in_log())
        stack.enter_context(deterministic_algorithms(cfg.train.deterministic))
        seed_everything(cfg.train.seed)
        loader, evaluator = build_evaluation(cfg, required=True)
        model = instantiate(without_pretrained_backbone(cfg).model)
        class_names = check_classes(model, {"test": dataset_of(loader)})
        load_weights_to_evaluate(cfg, model, class_names)
        to_device(model, cfg.train, device)
        logger.info("Evaluating on %s.", describe_device(device))
        keeper = SampleKeeper(evaluator)
        results = loop(model, loader, keeper)
        if distributed.is_main_process():
            of = f"detected by {Path(cfg.train.init_checkpoint).name}"
            page = write_pages(
                output_dir,
                keeper,
                dataset=dataset_of(loader),
                class_names=class_names,
                of=of,
                model=None if distributed.is_distributed() else model,
            )
            if page is not None:
                logger.info("The errors of the detections, with pictures of the worst images, are in %s.", page)
        return results


def _evaluate(model: Any, loader: Any, evaluator: Any) -> Results:
    with whole_weights(model):
        results = run_evaluation(model, loader, evaluator)
    if distributed.is_main_process():
        logger.info("Results:\n%s", format_table(results))
    return results


class Run:
    """A training run. Its parts are built in an order that finds errors as early as possible.

    Args:
        cfg: a complete config.
        output_dir: the run's folder.
        resume: continue from the newest intact checkpoint in the folder, if there is one.
    """

    def __init__(self, cfg: DictConfig, output_dir: Path, *, resume: bool):
        self.cfg = cfg
        self.output_dir = output_dir
        self.config_text = text_to_save(cfg)
        self.further_hooks = build_hooks(cfg.train)
        self.device = torch.device(cfg.train.device)
        self.amp_dtype = AMP_DTYPES[cfg.train.amp.dtype] if cfg.train.amp.enabled else None
        torch.backends.cudnn.benchmark = cfg.train.cudnn_benchmark
        seed_everything(cfg.train.seed + distributed.rank())
        self.train_loader = build_loader(cfg.dataloader.train)
        self.test_loader, self.evaluator = build_evaluation(cfg, required=False)
        check_best_metric(self.evaluator, cfg.train.best_metric)
        self.lengths = Lengths.of(cfg.train, batches_per_epoch(self.train_loader))
        check_ema_restart(cfg.train, self.lengths, evaluated=self.test_loader is not None)
        check_patience(cfg.train, self.lengths, evaluated=self.test_loader is not None)
        check_agreement(self.config_text, self._datasets())
        self.checkpointer = Checkpointer(output_dir, max_to_keep=cfg.train.checkpointer.max_to_keep)
        # The main process chooses the checkpoint, because other machines may see changes in the folder late or never.
        self.resume_from = distributed.from_main_process(
            lambda: self.checkpointer.latest() if resume and self.checkpointer.has_checkpoint() else None
        )
        if resume and self.resume_from is None:
            logger.info("%s holds no checkpoint to resume from: training starts from the beginning.", output_dir)
        self.model = instantiate((cfg if self.resume_from is None else without_pretrained_backbone(cfg)).model)
        self.class_names = check_classes(self.model, self._datasets())
        prepare_for_training(self.model, cfg.train, self.device, self.amp_dtype)

    def train(self) -> Results:
        train = self.cfg.train
        if train.init_checkpoint and self.resume_from is None:
            load_initial_weights(self.cfg, self.model, self.class_names)
        if self.resume_from is None:
            self.warn_of_regrets()
        take_weights_of_main_process(self.model)
        average = train.model_ema
        ema = ModelEma(self.model, decay=average.decay, warmup=average.warmup) if average.enabled else None
        if train.fsdp and distributed.is_distributed():
            shard(self.model)
            if ema is not None:
                shard(ema.module)
                ema.follow(self.model)

        optimizer = build_optimizer(self.cfg.optimizer, self.model)
        learning_rate = LearningRate(optimizer, instantiate(self.cfg.lr_multiplier))
        trainer = self.build_trainer(optimizer)
        state = TrainingState(
            model=self.model,
            trainer=trainer,
            checkpointer=self.checkpointer,
            ema=ema,
            class_names=self.class_names,
            category_ids=category_ids_of(self._datasets()),
            config=self.config_text,
            seed=train.seed,
        )
        if self.resume_from is not None:
            state.restore(self.resume_from)
        evaluated = ema.module if ema is not None and average.use_in_eval else self.model
        if self.test_loader is not None:
            with whole_weights(evaluated):
                try_evaluation(evaluated, self.test_loader, self.evaluator)
        logger.info("%s", self.summary(optimizer))
        with ExitStack() as stack:
            writers = self._open_writers(trainer.iteration)
            for writer in writers:
                stack.callback(writer.close)
            trainer.hooks = self._hooks(learning_rate, ema, state, evaluated, writers)
            # This breaks the reference cycle of trainer and hooks, so that the workers of the loaders end on return.
            stack.callback(trainer.hooks.clear)
            trainer.train()
        self._log_end(state)
        return trainer.results

    def warn_of_regrets(self) -> None:
        """Log warnings of settings that users regret, on the main process."""
        if not distributed.is_main_process():
            return
        loaders = {"training": self.train_loader}
        if self.test_loader is not None:
            loaders["validation"] = self.test_loader
        warn_of_regrets(
            self.cfg,
            model=self.model,
            datasets=self._datasets(),
            loaders=loaders,
            fine_tunes=bool(self.cfg.train.init_checkpoint),
        )

    def build_trainer(self, optimizer: torch.optim.Optimizer) -> Trainer:
        train = self.cfg.train
        return Trainer(
            model=wrap_for_training(self.model, train),
            optimizer=optimizer,
            data_loader=self.train_loader,
            max_iter=self.lengths.max_iter,
            accumulate_steps=train.accumulate_steps,
            clip_grad=dict(train.clip_grad.params) if train.clip_grad.enabled else None,
            amp_dtype=self.amp_dtype,
        )

    def _hooks(
        self,
        learning_rate: LearningRate,
        ema: ModelEma | None,
        state: TrainingState,
        evaluated: torch.nn.Module,
        writers: Sequence[Writer],
    ) -> list[Hook]:
        stop = StopOnSignal(state)
        hooks: list[Hook] = [learning_rate]
        if ema is not None:
            hooks += [EmaUpdate(ema), *self._ema_restart(ema, state)]
        hooks += [
            *self.further_hooks,
            OwnFolder(self.output_dir),
            ProgressLog(period=self.cfg.train.log_period, writers=writers, state=state),
            stop,
            PeriodicCheckpoint(state, self.lengths.checkpoint_period),
        ]
        keeper = None
        if self.test_loader is not None:
            keeper = SampleKeeper(self.evaluator)
            hooks.append(
                Evaluation(
                    lambda: _evaluate(evaluated, self.test_loader, keeper),
                    period=self.lengths.eval_period,
                    metric=self.cfg.train.best_metric,
                    patience=self.cfg.train.patience,
                    state=state,
                    writers=writers,
                    metrics_file=self.output_dir / METRICS_FILE,
                    interruptible=stop.interruptible,
                )
            )
        hooks.append(
            RunReport(
                output_dir=self.output_dir,
                keeper=keeper,
                dataset=self._datasets().get("validation"),
                class_names=self.class_names,
                model=None if distributed.is_distributed() else evaluated,
            )
        )
        return hooks

    def _ema_restart(self, ema: ModelEma, state: TrainingState) -> Iterator[Hook]:
        restart, lengths = self.cfg.train.model_ema.restart, self.lengths
        iteration = lengths.steps(restart.epoch)
        if iteration is None:
            return
        if iteration >= lengths.max_iter:
            logger.warning("train.model_ema.restart.epoch=%g is after the end of this run.", restart.epoch)
            return
        yield EmaRestart(
            ema,
            state,
            output_dir=self.output_dir,
            iteration=iteration,
            metric=self.cfg.train.best_metric,
            eval_period=lengths.eval_period,
            decay=restart.decay,
            decay_step=restart.decay_step,
        )

    def _open_writers(self, iteration: int) -> list[Writer]:
        """Write the config and open the writers, on the main process only. From here on the folder holds a run."""
        writers: list[Writer] = []
        if distributed.is_main_process():
            replace_text(self.output_dir / CONFIG_FILE, self.config_text)
            train = self.cfg.train
            mlflow: Any = OmegaConf.to_container(train.mlflow, resolve=True)
            config: Any = OmegaConf.to_container(OmegaConf.create(self.config_text))
            writers = open_writers(
                self.output_dir,
                start_iteration=iteration,
                config=config,
                wandb_params=dict(train.wandb.params) if train.wandb.enabled else None,
                mlflow_settings=mlflow if mlflow.pop("enabled") else None,
                table=train.csv,
            )
        distributed.barrier()
        return writers

    def _datasets(self) -> dict[str, Any]:
        datasets = {"training": dataset_of(self.train_loader)}
        if self.test_loader is not None:
            datasets["validation"] = dataset_of(self.test_loader)
        return datasets

    def summary(self, optimizer: torch.optim.Optimizer) -> str:
        """A summary of the run with one line per topic."""
        return describe_run(
            model=self.model,
            optimizer=optimizer,
            device=self.device,
            amp_dtype=self.amp_dtype,
            weights=self._describe_weights(),
            datasets=self._datasets(),
            lengths=self.lengths,
            batch_size=OmegaConf.select(self.cfg, "dataloader.train.total_batch_size"),
            accumulate_steps=self.cfg.train.accumulate_steps,
        )

    def _describe_weights(self) -> str:
        """A description of the initial weights."""
        if self.resume_from is not None:
            return f"those of {self.resume_from}"
        if self.cfg.train.init_checkpoint:
            return f"fine-tuning those of {self.cfg.train.init_checkpoint}"
        keys = ("model.backbone.weights", "model.backbone.net.weights", "model.backbone.pretrained")
        pretrained = [value for key in keys if (value := OmegaConf.select(self.cfg, key))]
        if pretrained:
            return f"backbone from {pretrained[0]}, everything else from scratch"
        return "from scratch, including the backbone (no train.init_checkpoint, no model.backbone.weights)"

    def _log_end(self, state: TrainingState) -> None:
        best = "" if state.best is None else f" (best {state.best['metric']} {state.best['value']:.2f})"
        logger.info(
            "Training is done: %d iterations%s. Everything is in %s.",
            state.trainer.iteration,
            best,
            self.output_dir,
        )
