"""The measurements of `detrex-lite benchmark`, with settings from parsed arguments."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from detrex_lite.commands.refusal import refuse
from detrex_lite.config import ConfigError, trust
from detrex_lite.data import DatasetError

from .analysis import analyze_config
from .deformable_attention import H200_BANDWIDTH, benchmark_deformable_attention
from .deployment import benchmark_deployment
from .errors import BenchmarkError
from .evaluation import benchmark_evaluation
from .history import append_to_history
from .loader import benchmark_loader
from .machine import choose_device
from .masks import benchmark_masks
from .matching import benchmark_matching
from .models import benchmark_models
from .operator_inputs import OperatorSettings, parse_shapes, pyramid
from .overview import write_overview
from .report import require_writable, write_json
from .settings import DeploySettings, MaskSettings, MatchingSettings, ModelSettings
from .training import benchmark_training

Settings = TypeVar("Settings")


def run(what: str, arguments: argparse.Namespace) -> int:
    """Measure, print the report and write its files; returns the exit status."""
    try:
        trust(*arguments.trust)
        history = getattr(arguments, "history", None)  # only commands that measure time have --history
        for path in (arguments.json, history):
            require_writable(path)
        report = MEASUREMENTS[what](arguments)
        print(report)
        if history:
            print("\n" + append_to_history(history, what, report.as_json()))
    except (BenchmarkError, ConfigError, DatasetError) as error:
        return refuse("benchmark", error)
    if arguments.json:
        write_json(arguments.json, report.as_json())
    return 0


def _settings(kind: type[Settings], arguments: argparse.Namespace, **changed: Any) -> Settings:
    """Build settings from the arguments with the names of its fields, and from `changed`."""
    names = [field.name for field in fields(kind) if hasattr(arguments, field.name)]  # type: ignore[arg-type]
    return kind(**{**{name: getattr(arguments, name) for name in names}, **changed})


def _measure_models(arguments: argparse.Namespace) -> Any:
    files, overrides = _split(arguments.configs)
    settings = _settings(ModelSettings, arguments, modes=_names(arguments.mode), precisions=_names(arguments.precision))
    return benchmark_models(files, overrides, settings, choose_device(arguments.device), log=_print_progress)


def _measure_deployment(arguments: argparse.Namespace) -> Any:
    models, overrides = _split(arguments.models)
    settings = _settings(
        DeploySettings,
        arguments,
        formats=_names(arguments.formats),
        precisions=_names(arguments.precision),
        compile=not arguments.no_compile,
        against=None if arguments.against == "none" else arguments.against,
    )
    return benchmark_deployment(models, overrides, settings, weights=arguments.weights, log=_print_progress)


def _measure_operator(arguments: argparse.Namespace) -> Any:
    device = choose_device(arguments.device)
    bandwidth = arguments.bandwidth
    settings = _settings(
        OperatorSettings,
        arguments,
        shapes=parse_shapes(arguments.shapes) if arguments.shapes else pyramid(arguments.height, arguments.width),
        queries=_queries(arguments.queries),
        backends=_names(arguments.backends),
        bandwidth=H200_BANDWIDTH if bandwidth is None and device.type == "cuda" else bandwidth,
    )
    return benchmark_deformable_attention(settings, device)


def _measure_training(arguments: argparse.Namespace) -> Any:
    device = choose_device(arguments.device)
    return benchmark_training(
        arguments.config, arguments.overrides, device, repeats=arguments.repeats, warmup=arguments.warmup
    )


def _measure_loader(arguments: argparse.Namespace) -> Any:
    return benchmark_loader(
        arguments.config,
        arguments.overrides,
        images=arguments.images,
        repeats=arguments.repeats,
        epoch=arguments.epoch,
        photographs=arguments.photographs,
    )


def _measure_matching(arguments: argparse.Namespace) -> Any:
    return benchmark_matching(_settings(MatchingSettings, arguments), choose_device(arguments.device))


def _measure_masks(arguments: argparse.Namespace) -> Any:
    return benchmark_masks(_settings(MaskSettings, arguments), choose_device(arguments.device))


def _measure_evaluation(arguments: argparse.Namespace) -> Any:
    return benchmark_evaluation(
        images=arguments.images,
        detections=arguments.detections,
        repeats=arguments.repeats,
        backend=arguments.backend,
    )


def _analyze(arguments: argparse.Namespace) -> Any:
    return analyze_config(arguments.config, arguments.overrides, height=arguments.height, width=arguments.width)


def _overview(arguments: argparse.Namespace) -> Any:
    return write_overview()


def _split(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate names of models from overrides of their configs."""
    overrides = [text for text in texts if "=" in text or text.startswith("~")]
    return [text for text in texts if text not in overrides], overrides


def _print_progress(line: str) -> None:
    print(line, file=sys.stderr)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _queries(text: str) -> int | None:
    if text == "encoder":
        return None
    if not text.isdecimal():
        raise BenchmarkError(f"queries must be a number or 'encoder', got {text!r}")
    return int(text)


MEASUREMENTS = {
    "model": _measure_models,
    "deploy": _measure_deployment,
    "op": _measure_operator,
    "train": _measure_training,
    "loader": _measure_loader,
    "matcher": _measure_matching,
    "masks": _measure_masks,
    "eval": _measure_evaluation,
    "analyze": _analyze,
    "projects": _overview,
}
