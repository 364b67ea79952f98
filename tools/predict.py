"""Find objects in images: draws them, and writes them as COCO JSON.

    python tools/predict.py --config-file output/config.yaml --weights output/model_final.pth photos/
    python tools/predict.py --model dino_r50_4scale_12ep photo.jpg    # published weights: docs/zoo.md

Exit status: 0 when every image was done, 1 when some could not be read (they are reported on standard error
and the others are done), 2 when nothing could be done.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see tools/train_net.py; before torch starts its threads

from tqdm import tqdm

from detrex_lite.config import LazyConfig, explain, trust
from detrex_lite.config.trusted import add_trust_argument
from detrex_lite.data import DatasetError, list_images, read_image
from detrex_lite.inference import Predictor
from detrex_lite.structures import Instances
from detrex_lite.visualization import draw_detections
from detrex_lite.zoo.predictor import load

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jfif")


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Find objects in images: draws them, and writes them as COCO JSON.",
        epilog="Exit status: 0 all images done, 1 some could not be read, 2 nothing could be done.",
    )
    parser.add_argument("--config-file", metavar="FILE", help="config with the model and the test transform")
    parser.add_argument("--weights", metavar="FILE", help="checkpoint file; with --model, in place of the download")
    parser.add_argument("--model", metavar="NAME", help="a published model, in place of --config-file and --weights")
    parser.add_argument("paths", nargs="+", metavar="PATH", help="image files, folders, quoted globs (a/**/*.jpg)")
    parser.add_argument("--output", default="output/predictions", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--score-threshold", type=float, default=0.5, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=1, help="images at a time (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument("--trusted", action="store_true", help="the weights may run code while they are read")
    add_trust_argument(parser)
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error was raised")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of the config")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argument_parser()
    args = parser.parse_args(arguments)
    if args.model and args.config_file:
        parser.error("--model has its own config: leave --config-file out, and change it with --opts")
    if not args.model and not (args.config_file and args.weights):
        parser.error("give --config-file and --weights, or the --model of a published one")
    files, num_failed = find_files(args.paths)
    if not files:
        return report("error: no image found")
    output = Path(args.output)
    drawn = drawn_paths(files, output)
    overwritten = {path.resolve() for path in drawn.values()} & {Path(file).resolve() for file in files}
    if overwritten:
        return report(f"error: {min(overwritten)} would be overwritten: choose another --output than {output}")
    try:
        predictor = build_predictor(args)
    except (ValueError, OSError) as error:
        return report(explain(error, with_traceback=args.traceback))

    output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Instances] = {}
    for file, result in tqdm(predictor.iterate(files), total=len(files), unit="image", disable=None):
        if isinstance(result, ValueError):
            tqdm.write(f"predict.py: {result}", file=sys.stderr)
            num_failed += 1
            continue
        found[file] = result
        # The predictor has left out low scores.
        picture = draw_detections(read_image(file), result, predictor.class_names, score_threshold=0)
        picture.save(drawn[file], quality=95)
    content = as_coco(found, drawn, predictor.class_names)
    with open(output / "predictions.json", "w", encoding="utf-8") as json_file:
        json.dump(content, json_file, indent=1, ensure_ascii=False)
    num_found = len(content["annotations"])
    print(f"{num_found} detections of score >= {args.score_threshold:g} in {len(found)} images")
    print(f"drawn in {output}, listed in {output / 'predictions.json'}")
    if num_failed:
        print(f"predict.py: {num_failed} could not be read, see above", file=sys.stderr)
    return 1 if num_failed else 0


def build_predictor(args: argparse.Namespace) -> Predictor:
    """The predictor that the arguments describe."""
    settings: dict[str, Any] = dict(
        device=args.device,
        score_threshold=args.score_threshold,
        batch_size=args.batch_size,
        trusted=args.trusted,
    )
    if args.model:
        return load(args.model, weights=args.weights, overrides=args.opts, **settings)
    trust(*args.trust)
    cfg = LazyConfig.apply_overrides(LazyConfig.load(args.config_file), args.opts)
    return Predictor(cfg, args.weights, **settings)


def report(message: str) -> int:
    """Say why nothing can be done; returns the exit status."""
    print(f"predict.py: {message}", file=sys.stderr)
    return 2


def find_files(paths: Iterable[str]) -> tuple[list[str], int]:
    """The image files that the paths stand for, each once, and how many paths (reported) stand for none."""
    files: dict[Path, str] = {}
    num_failed = 0
    for path in paths:
        try:
            for file in list_images(path):
                files.setdefault(Path(file).resolve(), file)
        except DatasetError as error:
            print(f"predict.py: {error}", file=sys.stderr)
            num_failed += 1
    return list(files.values()), num_failed


def drawn_paths(files: Sequence[str], output: Path) -> dict[str, Path]:
    """Where each file's drawing goes: under its own name, numbered where files share one."""
    taken: set[str] = set()
    drawn = {}
    for file in files:
        suffix = Path(file).suffix.lower()
        # What is not JPEG anyway is drawn without loss.
        stem, suffix = Path(file).stem, suffix if suffix in JPEG_SUFFIXES else ".png"
        name, number = f"{stem}{suffix}", 1
        while name.lower() in taken:  # some file systems do not tell A.jpg from a.jpg
            number += 1
            name = f"{stem}_{number}{suffix}"
        taken.add(name.lower())
        drawn[file] = output / name
    return drawn


def as_coco(
    found: dict[str, Instances], drawn: dict[str, Path], class_names: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Detections as a COCO data set whose annotations have a `score`; ids count from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (file, instances) in enumerate(found.items(), 1):
        height, width = instances.image_size
        images.append({"id": image_id, "file_name": file, "width": width, "height": height, "drawn": drawn[file].name})
        values = zip(
            instances.pred_boxes.tensor.double().tolist(),
            instances.scores.double().tolist(),
            instances.pred_classes.tolist(),
            strict=True,
        )
        for (x0, y0, x1, y1), score, class_index in values:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": class_index + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                    "score": score,
                }
            )
    categories = [{"id": index, "name": name} for index, name in enumerate(class_names, 1)]
    return {"images": images, "categories": categories, "annotations": annotations}


if __name__ == "__main__":
    sys.exit(main())
