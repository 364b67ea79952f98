"""How big models are: parameters and floating point operations of their parts.

Counts are those of fvcore, which counts multiply-accumulates; here 1 multiply-accumulate is 2 FLOPs. "GFLOPs" of DETR
papers are multiply-accumulates: half of what is told here.
"""

import math
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import Tensor, nn

from .building import build_model, load_model_config
from .errors import require_positive
from .report import aligned_table

WHOLE, REST = "(all)", "(outside of these)"
# fvcore counts 1 to 5 for each number in these: no multiply-accumulates, and too few to matter.
_NOT_PRODUCTS = ("batch_norm", "group_norm", "layer_norm", "instance_norm", "upsample_nearest2d", "adaptive_avg_pool2d")


@dataclass(frozen=True)
class Part:
    """A module of a model, or what a model or module does outside of its children.

    Attributes:
        name: dotted name; `WHOLE` for the model.
        level: 0 for the model, 1 for its children, 2 for theirs.
        parameters: all of them; a parameter that two parts share is counted in both, and once in the whole.
        trainable: those that are trained.
        flops: of one image, 2 per multiply-accumulate.
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
        model: its class.
        height, width: of the image in pixels.
        parts: the whole, and its parts in the order in which they were made.
        uncounted: operator -> how often it ran, of those that count nothing.
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
    """`analyze_model` of a config's model, with random weights, on the CPU.

    Raises:
        ConfigError: when the file or an override is wrong.
        BenchmarkError: when the config has no model, or a side of the image is below 1.
    """
    require_positive(height=height, width=width)
    return analyze_model(build_model(load_model_config(file, overrides)), height=height, width=width)


def analyze_model(model: nn.Module, *, height: int, width: int) -> ModelAnalysis:
    """Count the parameters of a detector, and its operations for one image.

    Args:
        model: takes and gives detectron2's format; see `Detector`. Its mode is changed to evaluation.
        height, width: of the image in pixels.
    """
    image = torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    analysis = FlopCountAnalysis(_OnTensors(model.eval(), height, width), (image,))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    _set_handles(analysis)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer fears that it records Python numbers: here it may
        products = analysis.by_module()
        uncounted = Counter(analysis.unsupported_ops())
    names = ((name.rpartition("::")[2], calls) for name, calls in uncounted.most_common())
    return ModelAnalysis(type(model).__name__, height, width, tuple(_parts(model, products)), dict(names))


class _OnTensors(nn.Module):
    """A detector as a tracer wants it: tensors in, tensors out."""

    def __init__(self, model: nn.Module, height: int, width: int):
        super().__init__()
        self.model = model
        self.size = {"height": height, "width": width}

    def forward(self, image: Tensor) -> list[Tensor]:
        (output,) = self.model([{"image": image, **self.size}])
        fields = output["instances"].get_fields().values()
        return [getattr(field, "tensor", field) for field in fields]


def _parts(model: nn.Module, products: Counter[str]) -> Iterator[Part]:
    """The whole, its children and theirs; parts that have neither parameters nor operations are left out."""

    def part(name: str, level: int, module: nn.Module) -> Part:
        traced = f"model.{name}" if name else "model"  # the names in `_OnTensors`
        parameters = list(module.parameters())
        trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        total = sum(parameter.numel() for parameter in parameters)
        return Part(name or WHOLE, level, total, trainable, 2 * int(products[traced]))

    whole = part("", 0, model)
    yield whole
    outside = whole.flops
    for name, child in model.named_children():
        first = part(name, 1, child)
        outside -= first.flops
        if first.parameters or first.flops:
            yield first
            seconds = [part(f"{name}.{inner}", 2, module) for inner, module in child.named_children()]
            yield from (second for second in seconds if second.parameters or second.flops)
    own = list(model.parameters(recurse=False))
    if outside or own:
        trainable = sum(parameter.numel() for parameter in own if parameter.requires_grad)
        yield Part(REST, 1, sum(parameter.numel() for parameter in own), trainable, outside)


def _set_handles(analysis: FlopCountAnalysis) -> None:
    """Make fvcore count multiply-accumulates alone, and those of operators that it does not know."""
    for name in _NOT_PRODUCTS:
        analysis._op_handles.pop(f"aten::{name}", None)  # set_op_handle(name, None) would hide them from the list
    handles = {
        "aten::scaled_dot_product_attention": _attention,
        "aten::embedding_bag": _embedding_bag,
        "aten::_embedding_bag": _embedding_bag,
        "detrex_lite::deformable_attention_cpu": _deformable_attention,
    }
    analysis.set_op_handle(**handles)


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """query (..., Q, C), key (..., N, C), value (..., N, V): the logits and the weighted sums."""
    query, key, value = (get_shape(one) for one in inputs[:3])
    return math.prod(query) * key[-2] + math.prod(query[:-1]) * key[-2] * value[-1]


def _embedding_bag(inputs: list[Any], outputs: list[Any]) -> int:
    """weight (rows, C), indices: each row that is looked up is weighed and added."""
    weight, indices = (get_shape(one) for one in inputs[:2])
    return math.prod(indices) * weight[-1]


def _deformable_attention(inputs: list[Any], outputs: list[Any]) -> int:
    """value (B, N, H, C), locations (B, Q, H, L, P, 2): 4 neighbours of each sample are weighed and added."""
    value, locations = (get_shape(one) for one in inputs[:2])
    return 4 * math.prod(locations[:-1]) * value[-1]
