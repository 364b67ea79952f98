"""Write a detector as a file that other programs run, and compare what the file finds with the detector in torch.

    python tools/export.py --config-file output/config.yaml --weights output/model_best.pth --output detector.onnx
    python tools/export.py --model dino_r50_4scale_12ep --format openvino --size 800x1066 --output dino.xml

docs/deployment.md is the guide. Exit status: 0 when the file is there and detects what the detector does, 2 when not.
"""

import argparse
import sys
from collections.abc import Sequence

from detrex_lite.config import explain
from detrex_lite.errors import printable
from detrex_lite.inference.description import INSIDE, OUTSIDE, Description
from detrex_lite.inference.export import FORMATS, ExportError, export
from detrex_lite.inference.export.api import LIMITS
from detrex_lite.inference.export.formats import FIRST_OPSET
from detrex_lite.zoo.arguments import add_detector_arguments, predictor_of, require_detector


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="export.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="ends in .onnx, .xml, .pt2 or .torchscript")
    parser.add_argument("--format", help=f"{', '.join(FORMATS)}; default: what the suffix of --output says")
    parser.add_argument("--precision", default="fp32", help=f"{', '.join(LIMITS)}; default: %(default)s")
    parser.add_argument(
        "--size", metavar="SIDE | HxW | dynamic", help="of images in pixels; default: that of the test transform"
    )
    parser.add_argument("--batch", default="1", help="images in each run, or 'dynamic'; default: %(default)s")
    parser.add_argument("--padded", action="store_true", help="take the sizes of images in batches with padding")
    for part, what in (("preprocess", "normalising"), ("postprocess", "making detections of logits and boxes")):
        parser.add_argument(f"--{part}", default=INSIDE, help=f"{INSIDE} or {OUTSIDE}: {what}; default: %(default)s")
    parser.add_argument("--opset", type=int, default=FIRST_OPSET, help="of ONNX; default: %(default)s")
    parser.add_argument("--score-limit", type=float, help="the largest difference of scores that is accepted")
    parser.add_argument("--box-limit", type=float, help="the same of boxes, in pixels")
    add_detector_arguments(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argument_parser()
    args = parser.parse_args(arguments)
    require_detector(parser, args)
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
        print(f"export.py: {text}", file=sys.stderr)
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


if __name__ == "__main__":
    sys.exit(main())
