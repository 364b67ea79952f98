"""How fast models are as one would deploy them: eager, compiled and exported, in turns with other implementations."""

import copy
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from detrex_lite.config import LazyConfig
from detrex_lite.errors import did_you_mean
from detrex_lite.inference import ExportedPredictor, Predictor
from detrex_lite.inference.description import ExportedFileError
from detrex_lite.inference.export import FORMATS, export
from detrex_lite.inference.export.check import made_up_image
from detrex_lite.inference.predictor import without_pretrained_backbone
from detrex_lite.structures import Boxes, Instances
from detrex_lite.zoo import find_entry, load_zoo
from detrex_lite.zoo.predictor import load

from .contenders import OTHERS
from .errors import BenchmarkError, require_known, require_positive
from .flops import count_flops
from .machine import describe_machine, machine_facts
from .report import milliseconds
from .timing import Timing, time_in_turns

RUNTIMES = ("onnx", "openvino")
PRECISIONS = ("fp32", "int8")
CONFIG_SUFFIXES = (".py", ".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class DeploySettings:
    """What is measured, and how often.

    Attributes:
        height, width: of the image in pixels.
        formats: of `RUNTIMES`.
        precisions: of exported files, of `PRECISIONS`.
        compile: measure models after torch.compile too.
        repeats: rounds, in each of which every side runs once.
        warmup: runs of each side before the first round.
        against: another implementation, of `OTHERS`; None for none.

    Raises:
        BenchmarkError: for an unknown format, precision or implementation, or a size below 1.
    """

    height: int = 640
    width: int = 640
    formats: Sequence[str] = RUNTIMES
    precisions: Sequence[str] = PRECISIONS
    compile: bool = True
    repeats: int = 20
    warmup: int = 3
    against: str | None = "transformers"

    def __post_init__(self) -> None:
        require_known("format", self.formats, RUNTIMES)
        require_known("precision", self.precisions, PRECISIONS)
        if self.against is not None:
            require_known("implementation to compare with", [self.against], OTHERS)
        require_positive(height=self.height, width=self.width, repeats=self.repeats, warmup=self.warmup)


@dataclass(kw_only=True)
class DeployedModel:
    """One row: a model by one runtime.

    Attributes:
        config: as it was named.
        variant: "eager", "compiled", "onnx", "openvino", or the name of another implementation.
        precision: "fp32" or "int8".
        parameters, flops: of the model in torch; flops are 2 per multiply-accumulate.
        seconds: of each round.
        median, lowest, highest: of these.
        speedup: the eager median by this one.
        against: the other implementation's median by this one; None without one.
    """

    config: str
    variant: str
    precision: str
    parameters: int
    flops: int
    seconds: list[float]
    median: float
    lowest: float
    highest: float
    speedup: float
    against: float | None


@dataclass
class DeploymentReport:
    """All rows, with what they depend on; as text a table in Markdown."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    rows: list[DeployedModel] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        against = self.settings["against"]
        headers = ["model", "parameters", "GFLOP", "by", "precision", "ms", "min .. max", "times eager"]
        headers += [f"times {against}"] if against else []
        lines = ["| " + " | ".join(headers) + " |", "|---" * len(headers) + "|"]
        for row in self.rows:
            cells = [
                Path(row.config).stem,
                f"{row.parameters / 1e6:.1f} M",
                f"{row.flops / 1e9:.4g}",
                row.variant,
                row.precision,
                milliseconds(row.median),
                f"{milliseconds(row.lowest)} .. {milliseconds(row.highest)}",
                f"{row.speedup:.2f}x",
                *([] if not against else ["" if row.against is None else f"{row.against:.2f}x"]),
            ]
            lines.append("| " + " | ".join(cells) + " |")
        size = f"{self.settings['height']}x{self.settings['width']}"
        notes = [
            describe_machine(self.machine),
            f"One image of {size}; medians of {self.settings['repeats']} rounds of one run of every side, in turns.",
            "From bytes in memory to detections: normalising and postprocessing are in all times but those of other "
            "implementations, which run from normalised pixels to logits and boxes; decoding and resizing are in none.",
            "int8: by onnxruntime matrix products of 8 bits, by OpenVINO weights of 8 bits.",
            *self.notes,
        ]
        return "\n".join([*lines, "", *(f"- {note}" for note in notes)])


def benchmark_deployment(
    names: Sequence[str],
    overrides: Sequence[str],
    settings: DeploySettings,
    *,
    weights: str | None = None,
    log: Callable[[str], object] = lambda line: None,
) -> DeploymentReport:
    """Measure models on the CPU.

    Args:
        names: config files, with random weights, or names of published checkpoints.
        overrides: of every config.
        settings: what is measured.
        weights: a checkpoint for the config, of which there is one then.
        log: gets a line for each step, as this takes its time.

    Raises:
        ConfigError: when a file or an override is wrong.
        BenchmarkError: when there is nothing to measure, or a package is missing.
    """
    if not names:
        raise BenchmarkError("no model is given: give config files, or names of published checkpoints")
    if weights is not None and len(names) > 1:
        raise BenchmarkError(f"weights are of one model, and {len(names)} are given")
    facts = machine_facts(torch.device("cpu"))
    report = DeploymentReport(facts, {**asdict(settings), "overrides": list(overrides), "weights": weights})
    for name in names:
        report.rows += _measure(name, overrides, settings, weights, report.notes, log)
    return report


def _measure(
    name: str,
    overrides: Sequence[str],
    settings: DeploySettings,
    weights: str | None,
    notes: list[str],
    log: Callable[[str], object],
) -> list[DeployedModel]:
    predictor, config, is_trained = _predictor(name, overrides, weights)
    image = made_up_image(settings.height, settings.width, 0)
    inputs = [{"image": torch.from_numpy(image).permute(2, 0, 1).contiguous(), **_frame(settings)}]
    count = count_flops(lambda: predictor.detect(inputs)).flops
    sides: dict[tuple[str, str], Callable[[], object]] = {("eager", "fp32"): lambda: predictor.detect(inputs)}
    if settings.compile:
        compiled = copy.copy(predictor)
        compiled.model = copy.copy(predictor.model)
        compiled.model.compile()
        sides["compiled", "fp32"] = lambda: compiled.detect(inputs)
    with tempfile.TemporaryDirectory() as folder:
        for form in settings.formats:
            for precision in settings.precisions:
                log(f"exporting {name} as {form}, {precision} ...")
                path = Path(folder) / f"{precision}{FORMATS[form].suffix}"
                limits: Any = {} if is_trained else dict(score_limit=math.inf, box_limit=math.inf)
                size = (settings.height, settings.width)
                try:
                    export(predictor, path, size=size, precision=precision, **limits)
                except ExportedFileError as error:
                    notes.append(f"{Path(name).stem} by {form}, {precision}: not measured. {error}")
                    continue
                exported = ExportedPredictor(path, score_threshold=0.0)
                sides[form, precision] = lambda exported=exported: exported.detect(  # type: ignore[misc]
                    [{"image": image, **_frame(settings)}]
                )
        if settings.against is not None:
            try:
                make = OTHERS[settings.against](config.model)
            except BenchmarkError as error:
                notes.append(f"{Path(name).stem} by {settings.against}: not measured. {error}")
            else:
                records = [{**inputs[0], "instances": _no_objects(settings)}]
                other = make(torch.device("cpu"), records, records, 0)
                other.model.eval()
                sides[settings.against, "fp32"] = other.inference_step(other.model, None)
        log(f"measuring {name} ...")
        timings = time_in_turns(sides, torch.device("cpu"), repeats=settings.repeats, warmup=settings.warmup)
    return _rows(name, timings, _parameters(predictor.model), count, settings.against)


def _rows(
    name: str, timings: dict[tuple[str, str], Timing], parameters: int, flops: int, against: str | None
) -> list[DeployedModel]:
    other = timings.get((against, "fp32")) if against else None
    return [
        DeployedModel(
            config=name,
            variant=variant,
            precision=precision,
            parameters=parameters,
            flops=flops,
            seconds=list(timing.seconds),
            median=timing.median,
            lowest=timing.lowest,
            highest=timing.highest,
            speedup=timings["eager", "fp32"].median / timing.median,
            against=None if other is None else other.median / timing.median,
        )
        for (variant, precision), timing in timings.items()
    ]


def _predictor(name: str, overrides: Sequence[str], weights: str | None) -> tuple[Predictor, DictConfig, bool]:
    """The predictor of a config or of a published checkpoint, its config, and whether its weights mean something."""
    settings: dict[str, Any] = dict(device="cpu", score_threshold=0.0)
    if Path(name).suffix not in CONFIG_SUFFIXES:
        entries = load_zoo()
        if name not in entries:
            hint = did_you_mean(name, entries)
            raise BenchmarkError(f"{name!r} is neither a config file nor a published checkpoint{hint}")
        config = find_entry(entries, name).load_config(overrides)
        return load(name, weights=weights, overrides=overrides, **settings), config, True
    config = LazyConfig.apply_overrides(LazyConfig.load(name), list(overrides))
    if not isinstance(config, DictConfig) or "model" not in config:
        raise BenchmarkError(f"{name} has no 'model'")
    config = without_pretrained_backbone(config)
    torch.manual_seed(0)
    predictor = Predictor(DictConfig({"model": config.model}, flags={"allow_objects": True}), weights, **settings)
    if weights is None:
        _spread_scores(predictor.model)
    return predictor, config, weights is not None


def _spread_scores(model: nn.Module) -> None:
    """Random class biases: before training all scores are nearly the same, and nothing could be compared."""
    for name, parameter in model.named_parameters():
        if "class_embed" in name and parameter.dim() == 1:
            nn.init.normal_(parameter, -1.0, 1.0)


def _frame(settings: DeploySettings) -> dict[str, int]:
    return {"height": settings.height, "width": settings.width}


def _no_objects(settings: DeploySettings) -> Any:
    size = (settings.height, settings.width)
    return Instances(size, gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64))


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
