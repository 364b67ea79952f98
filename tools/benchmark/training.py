"""The time of training steps by parts: data, forward pass, matching, backward pass, optimizer."""

import time
from collections.abc import Sequence

import torch
from omegaconf import OmegaConf

from detrex_lite.config import LazyConfig, instantiate
from detrex_lite.engine.build import build_loader, build_optimizer, prepare_for_training, wrap_for_training
from detrex_lite.engine.loop.progress import PHASES
from detrex_lite.engine.loop.trainer import Hook, Trainer
from detrex_lite.engine.processes.determinism import deterministic_algorithms
from detrex_lite.engine.settings import AMP_DTYPES, complete
from detrex_lite.errors import NonFiniteError
from detrex_lite.inference.predictor import without_pretrained_backbone

from .errors import BenchmarkError, require_positive
from .machine import machine_facts
from .stages import StagesReport
from .timing import Timing

WHOLE = "step"


class StepTimes(Hook):
    """Records the times of each step and its parts; on a GPU it waits for the end of each step.

    Args:
        warmup: number of steps at the beginning that are not recorded.

    Attributes:
        steps: for each step, part -> seconds; "matching" is a part of "forward".
        num_images: number of images in all recorded steps.
    """

    def __init__(self, warmup: int):
        self.warmup = warmup
        self.steps: list[dict[str, float]] = []
        self.num_images = 0
        self._start = 0.0

    def before_step(self, trainer: Trainer) -> None:
        self._start = _now(trainer.device)

    def after_step(self, trainer: Trainer) -> None:
        # The trainer's own clock does not wait for a GPU.
        on_gpu = trainer.device.type == "cuda"
        seconds = _now(trainer.device) - self._start if on_gpu else trainer.step_seconds
        phases = trainer.phases.take()
        if trainer.iteration > self.warmup:
            self.steps.append({WHOLE: seconds, "data": trainer.data_seconds, **phases})
            self.num_images += trainer.num_images

    def timings(self) -> dict[str, Timing]:
        """Part -> times, of the parts that occurred."""
        parts = [part for part in (WHOLE, *PHASES) if any(part in step for step in self.steps)]
        return {part: Timing(tuple(step.get(part, 0.0) for step in self.steps)) for part in parts}


def benchmark_training(
    file: str, overrides: Sequence[str], device: torch.device, *, repeats: int = 20, warmup: int = 3
) -> StagesReport:
    """Run some training steps of the engine's trainer on the config's own data, with random weights.

    The trainer has no other hooks: no learning rate schedule and no running mean of the weights.

    Args:
        file: a config.
        overrides: config overrides.
        device: device of the model.
        repeats: number of measured steps.
        warmup: number of steps before them.

    Raises:
        BenchmarkError: when a number is below 1, or a loss is not finite.
        ConfigError: when the config, an override or its data is wrong.
    """
    require_positive(repeats=repeats, warmup=warmup)
    config = LazyConfig.apply_overrides(LazyConfig.load(file), list(overrides))
    OmegaConf.update(config, "train.device", str(device))
    config = complete(config, sections=("dataloader", "optimizer"))
    config = without_pretrained_backbone(config)
    train = config.train
    torch.manual_seed(train.seed)
    loader = build_loader(config.dataloader.train)
    model = instantiate(config.model)
    torch.backends.cudnn.benchmark = train.cudnn_benchmark
    amp_dtype = AMP_DTYPES[train.amp.dtype] if train.amp.enabled else None
    prepare_for_training(model, train, device, amp_dtype)
    times = StepTimes(warmup)
    trainer = Trainer(
        model=wrap_for_training(model, train),
        optimizer=build_optimizer(config.optimizer, model),
        data_loader=loader,
        max_iter=warmup + repeats,
        hooks=[times],
        accumulate_steps=train.accumulate_steps,
        clip_grad=dict(train.clip_grad.params) if train.clip_grad.enabled else None,
        amp_dtype=amp_dtype,
    )
    try:
        with deterministic_algorithms(train.deterministic):
            trainer.train()
    except NonFiniteError as error:
        raise BenchmarkError(str(error)) from error
    timings = times.timings()
    return StagesReport(
        title=f"Training steps of {file}, {times.num_images // repeats} images each",
        machine=machine_facts(device),
        settings={"config": file, "overrides": list(overrides), "repeats": repeats, "warmup": warmup},
        timings=timings,
        whole=WHOLE,
        rates={
            "steps/s by the median": 1 / timings[WHOLE].median,
            "images/s": times.num_images / sum(timings[WHOLE].seconds),
        },
        notes=["Matching is a part of the forward pass."] if "matching" in timings else (),
    )


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
