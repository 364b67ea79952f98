"""The latency of inference and of training steps of models, in turns with other implementations."""

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from .building import load_model_config, synthetic_batch
from .contenders import CONTENDERS, Contender, prepare_ours
from .errors import BenchmarkError
from .flops import FlopCount, count_flops
from .machine import machine_facts, peak_device_bytes, peak_resident_bytes
from .model_report import Measurement, ModelReport
from .settings import MODES, ModelSettings
from .timing import Timing, measure_matmul_rate, time_in_turns

AUTOCAST_DTYPES = {"float32": None, "bf16": torch.bfloat16}  # keys are PRECISIONS; weights are float32


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
    preparations = [prepare_ours, *([CONTENDERS[settings.against]] if settings.against else [])]
    # All configs are checked before the first one is measured.
    factories = {file: [prepare(model_config) for prepare in preparations] for file, model_config in configs.items()}
    rates = {
        name: measure_matmul_rate(device, AUTOCAST_DTYPES[name] or torch.float32)
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
                steps[side.name, precision, variant] = _step(side, module, mode, AUTOCAST_DTYPES[precision])
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
