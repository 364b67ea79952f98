"""The size of models: parameters and floating point operations of their parts.

1 multiply-accumulate is 2 FLOPs. The "GFLOPs" of DETR papers are multiply-accumulates: half of the values here.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from .building import build_model, load_model_config
from .errors import require_positive
from .flops import FlopCount, count_flops
from .report import aligned_table

WHOLE, REST = "(all)", "(outside of these)"


@dataclass(frozen=True)
class Part:
    """A module of a model, or the computation of the model outside its children.

    Attributes:
        name: dotted name; `WHOLE` for the model.
        level: 0 for the model, 1 for its children, 2 for its grandchildren.
        parameters: number of all parameters; a parameter that two parts share counts in both, and once in the whole.
        trainable: number of trainable parameters.
        flops: operations for one image, 2 per multiply-accumulate.
    """

    name: str
    level: int
    parameters: int
    trainable: int
    flops: int


@dataclass(frozen=True)
class ModelAnalysis:
    """Parameters and operations of a model.

    Attributes:
        model: name of its class.
        height, width: size of the image in pixels.
        parts: the whole model, then its parts in the order in which they were created.
        uncounted: operator -> number of calls, for operators whose operations are not counted.
    """

    model: str
    height: int
    width: int
    parts: tuple[Part, ...]
    uncounted: dict[str, int]

    @property
    def whole(self) -> Part:
        return self.parts[0]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "flops_per_multiply_accumulate": 2, "torch": torch.__version__}

    def __str__(self) -> str:
        total = self.whole.flops or 1
        rows = [
            [
                "  " * part.level + part.name.rpartition(".")[2],
                f"{part.parameters:,}",
                f"{part.trainable:,}",
                f"{part.flops / 1e9:.4g}",
                f"{part.flops / 2e9:.4g}",
                f"{part.flops / total:.1%}",
            ]
            for part in self.parts
        ]
        operators = ", ".join(f"{name} ({calls})" for name, calls in self.uncounted.items())
        notes = (
            "1 multiply-accumulate (MAC) is 2 FLOPs; DETR papers write GFLOPs for GMAC.",
            "Counted: products, convolutions, attention, look-ups.",
            f"Not counted (operator, calls): {operators or 'nothing'}.",
        )
        return "\n\n".join(
            [
                f"{self.model}, one image of {self.height}x{self.width}",
                aligned_table(["part", "parameters", "trainable", "GFLOP", "GMAC", "share"], rows),
                "\n".join(textwrap.fill(note, width=120, subsequent_indent="  ") for note in notes),
            ]
        )


def analyze_config(file: str, overrides: Sequence[str] = (), *, height: int = 800, width: int = 1333) -> ModelAnalysis:
    """Build the model of a config with random weights on the CPU, and pass it to `analyze_model`.

    Raises:
        ConfigError: when the file or an override is wrong.
        BenchmarkError: when the config has no model, or a side of the image is below 1.
    """
    require_positive(height=height, width=width)
    return analyze_model(build_model(load_model_config(file, overrides)), height=height, width=width)


def analyze_model(model: nn.Module, *, height: int, width: int) -> ModelAnalysis:
    """Count the parameters of a detector, and its operations for one image.

    Args:
        model: takes and returns detectron2's format; see `Detector`. It is switched to evaluation mode.
        height, width: size of the image in pixels.
    """
    image = torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    inputs = [{"image": image, "height": height, "width": width}]
    model.eval()
    with torch.no_grad():
        count = count_flops(lambda: model(inputs), model)
    return ModelAnalysis(
        type(model).__name__, height, width, tuple(_parts(model, count)), dict(count.uncounted.most_common())
    )


def _parts(model: nn.Module, count: FlopCount) -> Iterator[Part]:
    """The whole model, its children and grandchildren; parts without parameters and operations are left out."""

    def part(name: str, level: int, module: nn.Module) -> Part:
        flops = count.of_modules[name] if name else count.flops
        parameters = list(module.parameters())
        trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        total = sum(parameter.numel() for parameter in parameters)
        return Part(name or WHOLE, level, total, trainable, flops)

    whole = part("", 0, model)
    yield whole
    outside_flops = whole.flops
    for name, child in model.named_children():
        child_part = part(name, 1, child)
        outside_flops -= child_part.flops
        if child_part.parameters or child_part.flops:
            yield child_part
            inner_parts = [part(f"{name}.{inner}", 2, module) for inner, module in child.named_children()]
            yield from (inner_part for inner_part in inner_parts if inner_part.parameters or inner_part.flops)
    outside_parameters = list(model.parameters(recurse=False))
    if outside_flops or outside_parameters:
        trainable = sum(parameter.numel() for parameter in outside_parameters if parameter.requires_grad)
        yield Part(REST, 1, sum(parameter.numel() for parameter in outside_parameters), trainable, outside_flops)
