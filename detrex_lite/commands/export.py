"""Writing a detector as a file that other programs run."""

import argparse
import sys

from ..config import explain
from ..errors import printable
from ..inference.description import Description
from ..inference.export import ExportError, export
from .detectors import predictor_of


def run(args: argparse.Namespace) -> int:
    """Export; see `detrex_lite.cli.export`."""
    try:
        settings = dict(
            format=args.format,
            precision=args.precision,
            size=parse_size(args.size),
            batch=parse_number("batch", args.batch),
            padded=args.padded,
            preprocess=args.preprocess,
            postprocess=args.postprocess,
            opset=args.opset,
            score_limit=args.score_limit,
            box_limit=args.box_limit,
        )
        description = export(predictor_of(args, device="cpu"), args.output, **settings)
    except (ValueError, OSError) as error:
        text = "\n".join(printable(line) for line in explain(error, with_traceback=args.traceback).splitlines())
        print(f"detrex-lite export: {text}", file=sys.stderr)
        return 2
    print(summary(args.output, description))
    return 0


def parse_number(name: str, text: str) -> int | str:
    """A number, or "dynamic"."""
    if text != "dynamic" and not text.isdecimal():
        raise ExportError(f"{name}={text!r} must be a number or 'dynamic'")
    return text if text == "dynamic" else int(text)


def parse_size(text: str | None) -> int | str | tuple[int, ...] | None:
    """The argument `size` of `export`: "640", "480x640" (height x width), "dynamic" or nothing."""
    if text is None or "x" not in text:
        return None if text is None else parse_number("size", text)
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise ExportError(f"size={text!r} must be one side in pixels, HEIGHTxWIDTH, or 'dynamic'")
    return tuple(int(side) for side in sides)


def summary(path: str, description: Description) -> str:
    """What was written, and how it compares with the detector in torch."""
    latency = description.latency
    size = "any size" if description.height is None else f"{description.height}x{description.width}"
    lines = [
        f"{printable(path)}: {description.model} as {description.format}, {description.precision}, "
        f"{description.batch or 'any number of'} image(s) of {size}{', padded' if description.padded else ''}",
        "images  size       compared  scores differ by  boxes differ by (pixels)  selected differ by",
    ]
    for one in description.differences:
        where = f"{one['height']}x{one['width']}"
        lines.append(
            f"{one['batch']:>6}  {where:<9}  {one['compared']:>8}  {one['scores']:>16.2e}  {one['boxes']:>24.2e}  "
            f"{one['selected']:>18.2e}"
        )
    lines.append(
        f"{latency['exported']:.1f} ms from bytes to detections of {latency['images']} image(s) of "
        f"{latency['height']}x{latency['width']}; in torch {latency['eager']:.1f} ms"
    )
    return "\n".join(lines)
