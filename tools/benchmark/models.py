"""The latency of inference and of training steps of models, in turns with other implementations."""

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from .building import load_model_config, synthetic_batch
from .contenders import OTHERS, Contender, prepare_ours
from .errors import BenchmarkError, require_known, require_positive
from .flops import FlopCount, count_flops
from .machine import machine_facts, peak_device_bytes, peak_resident_bytes
from .model_report import Measurement, ModelReport
from .timing import Timing, measure_matmul_rate, time_in_turns

MODES = ("inference", "train")
PRECISIONS = {"float32": None, "bf16": torch.bfloat16}  # the dtype of autocast; weights are float32


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The settings of a model benchmark.

    Attributes:
        height, width, batch: sizes in inference: pixels, number of images.
        train_height, train_width, train_batch: the same in training steps.
        modes: names of `MODES`.
        precisions: names of `PRECISIONS`.
        compile: also measure models after torch.compile.
        repeats: number of rounds, in each of which every side runs once.
        warmup: number of runs of each side before the first round.
        against: another implementation, one of `OTHERS`; None to compare with none.
        seed: seed of weights, images and objects.

    Raises:
        BenchmarkError: for an unknown mode, precision or implementation, or a size below 1.
    """

    height: int = 800
    width: int = 1066
    batch: int = 1
    train_height: int = 480
    train_width: int = 640
    train_batch: int = 2
    modes: Sequence[str] = MODES
    precisions: Sequence[str] = ("float32",)
    compile: bool = False
    repeats: int = 10
    warmup: int = 3
    against: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_known("mode", self.modes, MODES)
        require_known("precision", self.precisions, PRECISIONS)
        if self.against is not None:
            require_known("implementation to compare with", [self.against], OTHERS)
        sizes = ("height", "width", "batch", "train_height", "train_width", "train_batch", "repeats", "warmup")
        require_positive(**{name: getattr(self, name) for name in sizes})

    def size_of(self, mode: str) -> tuple[int, int, int]:
        """The batch size, height and width in a mode."""
        if mode == "train":
            return self.train_batch, self.train_height, self.train_width
        return self.batch, self.height, self.width


def benchmark_models(
    files: Sequence[str],
    overrides: Sequence[str],
    settings: ModelSettings,
    device: torch.device,
    *,
    log: Callable[[str], object] = lambda line: None,
) -> ModelReport:
    """Measure the model of each config.

    Args:
        files: config files.
        overrides: config overrides, applied to every config.
        settings: see `ModelSettings`.
        device: device of models and images.
        log: receives a progress message for each config, because a measurement takes long.

    Raises:
        ConfigError: when a file or an override is wrong.
        BenchmarkError: when there is nothing to measure, or nothing to compare with.
    """
    if not files:
        raise BenchmarkError("no config is given")
    configs = {file: load_model_config(file, overrides) for file in files}
    preparations = [prepare_ours, *([OTHERS[settings.against]] if settings.against else [])]
    # All configs are checked before the first one is measured.
    factories = {file: [prepare(model_config) for prepare in preparations] for file, model_config in configs.items()}
    rates = {
        name: measure_matmul_rate(device, PRECISIONS[name] or torch.float32)
        for name in dict.fromkeys(settings.precisions)
    }
    report = ModelReport(machine_facts(device), {**asdict(settings), "overrides": list(overrides)}, rates)
    if settings.against is not None:
        report.machine[settings.against] = _version(settings.against)
    for file, model_config in configs.items():
        log(f"measuring {file} ...")
        images, training_images = (
            synthetic_batch(
                *settings.size_of(mode), num_classes=model_config.num_classes, seed=settings.seed, device=device
            )
            for mode in MODES
        )
        sides = [make(device, images, training_images, settings.seed) for make in factories[file]]
        for mode in settings.modes:
            report.rows += _measure(file, mode, sides, settings, device, report)
    report.peak_resident = peak_resident_bytes()
    return report


def _measure(
    file: str, mode: str, sides: list[Contender], settings: ModelSettings, device: torch.device, report: ModelReport
) -> list[Measurement]:
    """Measure all sides of one config in one mode."""
    batch, height, width = settings.size_of(mode)
    counts: dict[str, FlopCount] = {}
    steps: dict[tuple[str, str, str], Callable[[], object]] = {}
    for side in sides:
        side.model.train(mode == "train")
        counts[side.name] = count_flops(_step(side, side.model, mode, None))
        report.uncounted.update(counts[side.name].uncounted)
        variants = {"eager": side.model, **({"compiled": _compiled(side.model)} if settings.compile else {})}
        for precision in settings.precisions:
            for variant, module in variants.items():
                steps[side.name, precision, variant] = _step(side, module, mode, PRECISIONS[precision])
    timings = time_in_turns(steps, device, repeats=settings.repeats, warmup=settings.warmup)
    by_name = {side.name: side for side in sides}
    rows = []
    for (name, precision, variant), timing in timings.items():
        side, flops = by_name[name], counts[name].flops
        rows.append(
            Measurement(
                config=file,
                side=name,
                model=type(side.model).__name__,
                parameters=side.parameters,
                mode=mode,
                precision=precision,
                variant=variant,
                batch=batch,
                height=height,
                width=width,
                **_figures(timing),
                images_per_second=batch / timing.median,
                flops=flops,
                matmul_share=flops / timing.median / report.matmul_rates[precision],
                peak_memory=peak_device_bytes(
                    steps[name, precision, variant], device, side.own_bytes(training=mode == "train")
                ),
                ratio=_ratio(timings, name, precision, variant, settings.against),
            )
        )
    return rows


def _compiled(model: nn.Module) -> nn.Module:
    """A compiled copy of a model that shares its weights; the model itself is not changed."""
    shared = copy.copy(model)
    shared.compile()
    return shared


def _step(side: Contender, module: Any, mode: str, dtype: torch.dtype | None) -> Callable[[], object]:
    return side.training_step(module, dtype) if mode == "train" else side.inference_step(module, dtype)


def _figures(timing: Timing) -> dict[str, Any]:
    return dict(seconds=list(timing.seconds), median=timing.median, lowest=timing.lowest, highest=timing.highest)


def _ratio(
    timings: dict[tuple[str, str, str], Timing], name: str, precision: str, variant: str, against: str | None
) -> float | None:
    if against is None or name == against:
        return None
    return timings[name, precision, variant].median / timings[against, precision, variant].median


def _version(package: str) -> str:
    with suppress(PackageNotFoundError):
        return version(package)
    return "not installed"
