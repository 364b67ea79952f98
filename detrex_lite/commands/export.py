"""Writing a detector as a file for other runtimes."""

import argparse

from ..errors import printable
from ..inference.description import Description
from ..inference.export import ExportError, export
from .detectors import predictor_of
from .refusal import refuse


def run(args: argparse.Namespace) -> int:
    """Export a detector; see `detrex_lite.cli.export`."""
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
        return refuse("export", error, with_traceback=args.traceback)
    print(summary(args.output, description))
    return 0


def parse_number(name: str, text: str) -> int | str:
    """Parse a number or "dynamic"."""
    if text != "dynamic" and not text.isdecimal():
        raise ExportError(f"{name}={text!r} must be a number or 'dynamic'")
    return text if text == "dynamic" else int(text)


def parse_size(text: str | None) -> int | str | tuple[int, ...] | None:
    """Parse the argument `size` of `export`: "640", "480x640" (height x width), "dynamic" or None."""
    if text is None or "x" not in text:
        return None if text is None else parse_number("size", text)
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise ExportError(f"size={text!r} must be one side in pixels, HEIGHTxWIDTH, or 'dynamic'")
    return tuple(int(side) for side in sides)


def summary(path: str, description: Description) -> str:
    """Text about the exported file, and its differences from the detector in torch."""
    latency = description.latency
    size = "any size" if description.height is None else f"{description.height}x{description.width}"
    lines = [
        f"{printable(path)}: {description.model} as {description.format}, {description.precision}, "
        f"{description.batch or 'any number of'} image(s) of {size}{', padded' if description.padded else ''}",
        "images  size       compared  scores differ by  boxes differ by (pixels)  selected differ by",
    ]
    for row in description.differences:
        image_size = f"{row['height']}x{row['width']}"
        lines.append(
            f"{row['batch']:>6}  {image_size:<9}  {row['compared']:>8}  {row['scores']:>16.2e}  {row['boxes']:>24.2e}  "
            f"{row['selected']:>18.2e}"
        )
    lines.append(
        f"{latency['exported']:.1f} ms from bytes to detections of {latency['images']} image(s) of "
        f"{latency['height']}x{latency['width']}; in torch {latency['eager']:.1f} ms"
    )
    return "\n".join(lines)
