"""Training and evaluating what a config describes: the parts are built, checked, joined and run."""

import logging
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from .. import distributed
from .build import (
    batches_per_epoch,
    build_evaluation,
    build_loader,
    build_optimizer,
    load_initial_weights,
    load_weights_to_evaluate,
    wrap_for_training,
)
from .ema import ModelEma
from .hooks import EmaUpdate, Evaluation, LearningRate, PeriodicCheckpoint, Results
from .logs import FILE_ONLY, run_logging
from .preflight import CONFIG_FILE, check_classes, check_init_checkpoint, check_output_dir, try_evaluation
from .progress import ProgressLog
from .random_states import seed_everything
from .settings import AMP_DTYPES, Lengths, complete
from .signals import StopOnSignal
from .state import TrainingState
from .summary import describe_device, describe_run
from .trainer import Hook, Trainer
from .writers import METRICS_FILE, Writer, open_writers

logger = logging.getLogger(__name__)


def train(cfg: DictConfig, *, resume: bool = False) -> Results:
    """Train what a config describes, with evaluation and checkpoints on the way.

    Args:
        cfg: a config with `model`, `dataloader`, `optimizer`, `lr_multiplier` and `train`; it is not changed.
            Without `dataloader.test` and `.evaluator` there is no evaluation.
        resume: go on with the run in `train.output_dir`, exactly as if it had not been interrupted; it begins
            anew when there is no checkpoint yet.

    Returns:
        The results of the last evaluation.

    Raises:
        ConfigError: for everything that is wrong with the config, its data and its folders, before training.
        NonFiniteError: when the loss is not finite.
        SystemExit: with status 143 or 130 when SIGTERM or Ctrl-C ended the run; it is saved then.
    """
    cfg = complete(cfg, sections=("dataloader", "optimizer", "lr_multiplier"))
    output_dir = Path(cfg.train.output_dir)
    check_output_dir(output_dir, resume=resume)
    check_init_checkpoint(cfg.train.init_checkpoint)
    distributed.barrier()  # nobody writes before everybody has looked
    with run_logging(output_dir):
        try:
            return _Run(cfg, output_dir).train(resume)
        except Exception:
            logger.error("%s", traceback.format_exc(), extra=FILE_ONLY)
            raise


def evaluate(cfg: DictConfig) -> Results:
    """Evaluate the weights in `train.init_checkpoint` on `dataloader.test`, and log the table of results.

    The average of the weights is taken where there is one, unless `train.model_ema.use_in_eval` is False.

    Returns:
        What the evaluator returned: `{"bbox": {"AP": ...}}`.

    Raises:
        ConfigError: when something is wrong with the config or its data.
        CheckpointError: when the checkpoint cannot be read or does not fit.
    """
    from ..config import instantiate
    from ..data import dataset_of

    cfg = complete(cfg, sections=("dataloader",))
    check_init_checkpoint(cfg.train.init_checkpoint, required=True)
    device = torch.device(cfg.train.device)
    with run_logging(Path(cfg.train.output_dir)):
        seed_everything(cfg.train.seed)
        loader, evaluator = build_evaluation(cfg, required=True)
        model = instantiate(cfg.model)
        class_names = check_classes(model, {"test": dataset_of(loader)})
        load_weights_to_evaluate(cfg, model, class_names)
        model.to(device)
        logger.info("Evaluating on %s.", describe_device(device))
        return _evaluate(model, loader, evaluator)


def _evaluate(model: Any, loader: Any, evaluator: Any) -> Results:
    from ..evaluation import format_table, run_evaluation

    results = run_evaluation(model, loader, evaluator)
    if distributed.is_main_process():
        logger.info("Results:\n%s", format_table(results))
    return results


class _Run:
    """A training run: its parts, built in the order of how soon they can tell that something is wrong.

    Args:
        cfg: a complete config.
        output_dir: the run's folder.
    """

    def __init__(self, cfg: DictConfig, output_dir: Path):
        from ..config import LazyConfig, instantiate

        self.cfg = cfg
        self.output_dir = output_dir
        self.config_text = LazyConfig.to_yaml(cfg, resolve=True)
        self.device = torch.device(cfg.train.device)
        self.amp_dtype = AMP_DTYPES[cfg.train.amp.dtype] if cfg.train.amp.enabled else None
        torch.backends.cudnn.benchmark = cfg.train.cudnn_benchmark
        seed_everything(cfg.train.seed + distributed.rank())
        self.train_loader = build_loader(cfg.dataloader.train)
        self.test_loader, self.evaluator = build_evaluation(cfg, required=False)
        self.lengths = Lengths.of(cfg.train, batches_per_epoch(self.train_loader))
        self.model = instantiate(cfg.model)
        self.class_names = check_classes(self.model, self._datasets())
        self.model.to(self.device)

    def train(self, resume: bool) -> Results:
        from ..checkpoint import Checkpointer
        from ..config import instantiate

        train = self.cfg.train
        checkpointer = Checkpointer(self.output_dir, max_to_keep=train.checkpointer.max_to_keep)
        resume_from = checkpointer.latest() if resume and checkpointer.has_checkpoint() else None
        if resume and resume_from is None:
            logger.info("%s holds no checkpoint to resume from: training starts anew.", self.output_dir)
        if train.init_checkpoint and resume_from is None:
            load_initial_weights(self.cfg, self.model)

        optimizer = build_optimizer(self.cfg.optimizer, self.model)
        learning_rate = LearningRate(optimizer, instantiate(self.cfg.lr_multiplier))
        trainer = self._trainer(optimizer)
        average = train.model_ema
        ema = ModelEma(self.model, decay=average.decay, warmup=average.warmup) if average.enabled else None
        state = TrainingState(
            model=self.model,
            trainer=trainer,
            checkpointer=checkpointer,
            ema=ema,
            class_names=self.class_names,
            config=self.config_text,
        )
        if resume_from is not None:
            state.restore(resume_from)
        evaluated = ema.module if ema is not None and average.use_in_eval else self.model
        if self.test_loader is not None:
            try_evaluation(evaluated, self.test_loader, self.evaluator)
        logger.info("%s", self._summary(optimizer))
        with ExitStack() as stack:
            writers = self._open_writers(trainer.iteration)
            for writer in writers:
                stack.callback(writer.close)
            trainer.hooks = self._hooks(learning_rate, ema, state, evaluated, writers)
            # Hooks refer to the trainer: without this circle the loaders' workers end when this returns.
            stack.callback(trainer.hooks.clear)
            trainer.train()
        self._say_where(state)
        return trainer.results

    def _trainer(self, optimizer: torch.optim.Optimizer) -> Trainer:
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
            hooks.append(EmaUpdate(ema))
        hooks += [
            ProgressLog(period=self.cfg.train.log_period, writers=writers, state=state),
            stop,
            PeriodicCheckpoint(state, self.lengths.checkpoint_period),
        ]
        if self.test_loader is not None:
            hooks.append(
                Evaluation(
                    lambda: _evaluate(evaluated, self.test_loader, self.evaluator),
                    period=self.lengths.eval_period,
                    metric=self.cfg.train.best_metric,
                    state=state,
                    writers=writers,
                    metrics_file=self.output_dir / METRICS_FILE,
                    interruptible=stop.interruptible,
                )
            )
        return hooks

    def _open_writers(self, iteration: int) -> list[Writer]:
        """The writers of the main process, none on others; from here on the folder holds a run."""
        writers: list[Writer] = []
        if distributed.is_main_process():
            (self.output_dir / CONFIG_FILE).write_text(self.config_text, encoding="utf-8")
            wandb = self.cfg.train.wandb
            writers = open_writers(
                self.output_dir,
                start_iteration=iteration,
                config=dict(OmegaConf.create(self.config_text)),
                wandb_params=dict(wandb.params) if wandb.enabled else None,
            )
        distributed.barrier()
        return writers

    def _datasets(self) -> dict[str, Any]:
        from ..data import dataset_of

        datasets = {"training": dataset_of(self.train_loader)}
        if self.test_loader is not None:
            datasets["validation"] = dataset_of(self.test_loader)
        return datasets

    def _summary(self, optimizer: torch.optim.Optimizer) -> str:
        return describe_run(
            model=self.model,
            optimizer=optimizer,
            device=self.device,
            amp_dtype=self.amp_dtype,
            datasets=self._datasets(),
            lengths=self.lengths,
            batch_size=OmegaConf.select(self.cfg, "dataloader.train.total_batch_size"),
            accumulate_steps=self.cfg.train.accumulate_steps,
        )

    def _say_where(self, state: TrainingState) -> None:
        best = "" if state.best is None else f" (best {state.best['metric']} {state.best['value']:.2f})"
        logger.info(
            "Training is done: %d iterations%s. Everything is in %s.",
            state.trainer.iteration,
            best,
            self.output_dir,
        )
