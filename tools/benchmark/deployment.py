"""The latency of deployed models: eager, compiled and exported, in turns with other implementations."""

import copy
import functools
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from detrex_lite.config import LazyConfig
from detrex_lite.errors import did_you_mean
from detrex_lite.inference import ExportedPredictor, Predictor
from detrex_lite.inference.description import Description, ExportedFileError
from detrex_lite.inference.export import FORMATS, ExportError, export
from detrex_lite.inference.export.api import LIMITS, TIED
from detrex_lite.inference.export.check import ImposedSelection, compare_detections, made_up_image
from detrex_lite.inference.export.graph import deployed
from detrex_lite.inference.predictor import without_pretrained_backbone
from detrex_lite.modeling import Predictions
from detrex_lite.modeling.deformable import highest, record_selected_tokens, select_tokens_by
from detrex_lite.ops.cpu import accelerate
from detrex_lite.structures import Boxes, Instances
from detrex_lite.zoo import find_entry, load_zoo
from detrex_lite.zoo.predictor import load

from .contenders import CONTENDERS
from .errors import BenchmarkError
from .flops import count_flops
from .machine import describe_machine, machine_facts
from .report import milliseconds
from .settings import DeploySettings
from .timing import Timing, time_in_turns
from .transformers_models import copy_weights

CONFIG_SUFFIXES = (".py", ".yaml", ".yml")


@dataclass(kw_only=True)
class DeployedModel:
    """One row: a model in one runtime.

    Attributes:
        config: the config file or checkpoint as the user named it.
        variant: "eager"; "fused" (after `convert_to_deploy`); "compiled" (the fused model after torch.compile); "onnx";
            "openvino"; the name of another implementation; that name followed by "compiled".
        precision: "fp32", "fp16" or "int8".
        parameters, flops: size of the model that runs: before or after `convert_to_deploy`, or of the other
            implementation's model; flops are 2 per multiply-accumulate.
        scores, boxes: the largest differences of detections from those of "eager", boxes in pixels; None for another
            implementation with other weights.
        seconds: the time of each round.
        median, lowest, highest: statistics of `seconds`.
        speedup: the eager median divided by this one.
        against: the other implementation's median divided by this one; None without another implementation.
    """

    config: str
    variant: str
    precision: str
    parameters: int
    flops: int
    scores: float | None
    boxes: float | None
    seconds: list[float]
    median: float
    lowest: float
    highest: float
    speedup: float
    against: float | None


@dataclass
class DeploymentReport:
    """All rows, with the machine and the settings; its text is a Markdown table."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    rows: list[DeployedModel] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        against = self.settings["against"]
        headers = ["model", "parameters", "GFLOP", "by", "precision", "scores differ", "boxes differ"]
        headers += ["ms", "min .. max", "times eager"]
        headers += [f"times {against}"] if against else []
        lines = ["| " + " | ".join(headers) + " |", "|---" * len(headers) + "|"]
        for row in self.rows:
            cells = [
                Path(row.config).stem,
                f"{row.parameters / 1e6:.1f} M",
                f"{row.flops / 1e9:.4g}",
                row.variant,
                row.precision,
                "" if row.scores is None else f"{row.scores:.1e}",
                "" if row.boxes is None else f"{row.boxes:.1e} px",
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
            "From bytes in memory to detections: times include preprocessing (normalising) and postprocessing "
            "(choosing detections, boxes in pixels), except those of other implementations, which run from normalised "
            "pixels to logits and boxes; no time includes decoding and resizing.",
            "Differences are between all detections and those of eager, compared before timing; the export compares "
            "exported files, with several images. All but other implementations use the tokens that they selected.",
            "fused: norms and branches folded into convolutions, also in exported files and in the compiled model. "
            "fp16: weights of 16 bits; OpenVINO computes in bfloat16 where the processor supports it. int8: matrix "
            "products of 8 bits in onnxruntime, weights of 8 bits in OpenVINO.",
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
        overrides: config overrides, applied to every config.
        settings: see `DeploySettings`.
        weights: a checkpoint for the config; `names` must then have one element.
        log: receives a progress message for each step, because a measurement takes long.

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
    bench = _Sides(predictor, name, settings, notes)
    bench.add("eager", lambda: predictor.detect(bench.inputs)[0], model=predictor.model)
    fused = copy.copy(predictor)
    fused.model = accelerate(deployed(predictor.model, torch.float32))
    bench.add("fused", lambda: fused.detect(bench.inputs)[0], model=fused.model)
    if settings.compile:
        compiled = copy.copy(fused)
        compiled.model = copy.copy(fused.model)
        compiled.model.compile()
        bench.add("compiled", lambda: compiled.detect(bench.inputs)[0])
    with tempfile.TemporaryDirectory() as folder:
        for form in settings.formats:
            for precision in settings.precisions:
                log(f"exporting {name} as {form}, {precision} ...")
                path = Path(folder) / f"{precision}{FORMATS[form].suffix}"
                # With random weights, the differences of lower precisions are meaningless.
                is_checked = is_trained or precision == "fp32"
                limits: Any = {} if is_checked else dict(score_limit=math.inf, box_limit=math.inf)
                size = (settings.height, settings.width)
                try:
                    description = export(predictor, path, size=size, precision=precision, **limits)
                except (ExportedFileError, ExportError) as error:
                    notes.append(f"{Path(name).stem} by {form}, {precision}: not measured. {error}")
                    continue
                exported = ExportedPredictor(path, score_threshold=0.0)
                records = [{"image": bench.image, **_frame(settings)}]
                bench.add_exported(form, functools.partial(_detect_first, exported, records), description)
        if settings.against is not None:
            bench.add_other(settings.against, config.model)
        log(f"measuring {name} ...")
        timings = time_in_turns(bench.runs, torch.device("cpu"), repeats=settings.repeats, warmup=settings.warmup)
    return _rows(name, timings, bench.facts, settings.against)


def _detect_first(exported: ExportedPredictor, records: list[dict[str, Any]]) -> Any:
    return exported.detect(records)[0]


@dataclass
class _Facts:
    """Size of a side, and differences of its detections; see `DeployedModel`."""

    parameters: int
    flops: int
    scores: float | None
    boxes: float | None


class _Sides:
    """The sides that are compared on one image: a function that runs each, and facts found before timing.

    Args:
        predictor: the predictor in torch, which is the first side.
        name: name of its config.
        settings: settings of the measurement.
        notes: list to which sides that cannot be measured are appended.

    Attributes:
        image, inputs: the image, (H, W, 3) uint8, and the same as model inputs.
        runs: (variant, precision) -> a function that runs the side once.
        facts: (variant, precision) -> facts about the side.
    """

    def __init__(self, predictor: Predictor, name: str, settings: DeploySettings, notes: list[str]):
        self.predictor, self.name, self.settings, self.notes = predictor, name, settings, notes
        self.image = made_up_image(settings.height, settings.width, 0)
        pixels = torch.from_numpy(self.image).permute(2, 0, 1).contiguous()
        self.inputs = [{"image": pixels, **_frame(settings)}]
        self.runs: dict[tuple[str, str], Callable[[], object]] = {}
        self.facts: dict[tuple[str, str], _Facts] = {}

    def add(self, variant: str, detect: Callable[[], Any], *, model: nn.Module | None = None) -> None:
        """Add a side that detects in torch.

        Args:
            variant: name of the side.
            detect: returns the detections of the image.
            model: the model whose parameters and operations are counted; None takes the numbers of "fused".

        Raises:
            BenchmarkError: when its detections differ from those of the first side.
        """
        with record_selected_tokens() as selected:
            detections = detect()
        scores, boxes = self._differences(variant, detections, ImposedSelection(selected))
        if model is None:
            self.facts[variant, "fp32"] = replace(self.facts["fused", "fp32"], scores=scores, boxes=boxes)
        else:
            self.facts[variant, "fp32"] = _Facts(_parameters(model), count_flops(detect).flops, scores, boxes)
        self.runs[variant, "fp32"] = detect

    def add_exported(self, variant: str, detect: Callable[[], Any], description: Description) -> None:
        """Add a side that runs a file.

        Args:
            variant: name of the side.
            detect: returns the detections of the image.
            description: description of the file, with the differences that its export found.
        """
        scores, boxes = (max(row[value] for row in description.differences) for value in ("scores", "boxes"))
        facts = replace(self.facts["fused", "fp32"], scores=scores, boxes=boxes)
        self.facts[variant, description.precision] = facts
        self.runs[variant, description.precision] = detect

    def add_other(self, name: str, model_config: DictConfig) -> None:
        """Add another implementation, with the same weights if it can load them, and its compiled model.

        Raises:
            BenchmarkError: when it has the same weights, but its detections differ.
        """
        records = [{**self.inputs[0], "instances": _no_objects(self.settings)}]
        try:
            contender = CONTENDERS[name](model_config)(torch.device("cpu"), records, records, 0)
            is_same = copy_weights(self.predictor.model, contender.model)
        except BenchmarkError as error:
            self.notes.append(f"{Path(self.name).stem} by {name}: not measured. {error}")
            return
        contender.model.eval()
        if not is_same:
            self.notes.append(
                f"{Path(self.name).stem} by {name}: it has other weights, so detections are not compared."
            )
        modules: dict[str, Any] = {name: contender.model}
        if self.settings.compile:
            modules[f"{name} compiled"] = torch.compile(contender.model)
        for variant, module in modules.items():
            run = contender.inference_step(module, None)
            try:
                output = run()
            except Exception as error:  # compilers raise all kinds of errors
                reason = str(error).strip().partition("\n")[0]
                self.notes.append(
                    f"{Path(self.name).stem} by {variant}: not measured. {type(error).__name__}: {reason}"
                )
                continue
            scores, boxes = self._differences(variant, self._detections(output)) if is_same else (None, None)
            flops = self.facts[name, "fp32"].flops if self.facts.get((name, "fp32")) else count_flops(run).flops
            self.facts[variant, "fp32"] = _Facts(_parameters(contender.model), flops, scores, boxes)
            self.runs[variant, "fp32"] = run

    def _detections(self, output: Any) -> Instances:
        frame = (self.settings.height, self.settings.width)
        predictions = Predictions(output.logits, output.pred_boxes)
        return self.predictor.model.postprocessor(predictions, [frame])[0]

    def _differences(
        self, variant: str, detections: Any, imposed: ImposedSelection | None = None
    ) -> tuple[float, float]:
        """The differences from the detections of eager, which uses the same selected tokens where these are known.

        Raises:
            BenchmarkError: when the differences exceed the limits of fp32.
        """
        with select_tokens_by(imposed or highest):
            expected = self.predictor.detect(self.inputs)[0]
        cut_off = self.predictor.model.postprocessor.settings()["kind"] == "top_k"
        score_limit, box_limit = limits = LIMITS["fp32"]
        _, scores, boxes = compare_detections(expected, detections, tied=TIED["fp32"], limits=limits, cut_off=cut_off)
        selected = imposed.difference if imposed else 0.0
        if not (scores <= score_limit and boxes <= box_limit and selected <= score_limit):
            raise BenchmarkError(
                f"{self.name} by {variant}: detections differ from those of eager: scores by up to {scores:.3g} "
                f"(limit {score_limit:g}), boxes by {boxes:.3g} pixels (limit {box_limit:g}), and scores of selected "
                f"tokens by {selected:.3g} of the largest (limit {score_limit:g}); nothing was measured"
            )
        return scores, boxes


def _rows(
    name: str,
    timings: dict[tuple[str, str], Timing],
    facts: dict[tuple[str, str], _Facts],
    against: str | None,
) -> list[DeployedModel]:
    other_timing = timings.get((against, "fp32")) if against else None
    return [
        DeployedModel(
            config=name,
            variant=variant,
            precision=precision,
            **vars(facts[variant, precision]),
            seconds=list(timing.seconds),
            median=timing.median,
            lowest=timing.lowest,
            highest=timing.highest,
            speedup=timings["eager", "fp32"].median / timing.median,
            against=None if other_timing is None else other_timing.median / timing.median,
        )
        for (variant, precision), timing in timings.items()
    ]


def _predictor(name: str, overrides: Sequence[str], weights: str | None) -> tuple[Predictor, DictConfig, bool]:
    """The predictor of a config or of a published checkpoint, its config, and whether its weights are trained."""
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
        _randomise_heads(predictor.model)
    return predictor, config, weights is not None


def _randomise_heads(model: nn.Module) -> None:
    """Draw random values for heads and for weights that are initialised to zeros.

    Otherwise all scores are nearly equal, so that rounding errors decide which are the highest, and boxes equal the
    anchors regardless of the layers before.
    """
    for name, parameter in model.named_parameters():
        if "class_embed" in name:
            is_bias = parameter.dim() == 1
            nn.init.normal_(parameter, -4.0 if is_bias else 0.0, 1.0 if is_bias else 1.5 * parameter.shape[1] ** -0.5)
        elif parameter.dim() > 1 and not parameter.any():
            nn.init.xavier_normal_(parameter)


def _frame(settings: DeploySettings) -> dict[str, int]:
    return {"height": settings.height, "width": settings.width}


def _no_objects(settings: DeploySettings) -> Any:
    size = (settings.height, settings.width)
    return Instances(size, gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64))


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
