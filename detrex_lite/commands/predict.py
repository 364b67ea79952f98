"""Finding objects in images."""

import argparse
import contextlib
import errno
import io
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..checkpoint.files import atomic_file
from ..data import DatasetError, list_images, read_image
from ..errors import printable
from ..inference import AugmentedPredictor, TiledPredictor
from ..inference.base import ImagePredictor
from ..inference.thresholds import threshold_below
from ..results import ImageInfo
from ..structures import Instances, run_lengths
from ..visualization import draw_detections
from .detectors import predictor_of
from .refusal import refuse

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jfif")
LONGEST_STEM = 200  # bytes; file systems allow 255, which must include a number, a suffix and that of partial files
# The list is rewritten after at least so many seconds, and so that writing takes at most this fraction of the time:
# writing a long list must not slow down the predictions.
SECONDS_BETWEEN_WRITES = 1.0
SHARE_OF_WRITES = 1 / 20


def run(args: argparse.Namespace) -> int:
    """Detect objects in images; see `detrex_lite.cli.predict`."""
    files, num_failed = find_files(args.paths)
    if not files:
        return refuse("predict", "no image found")
    output = Path(os.path.expanduser(args.output))
    drawn = drawn_paths(files, output)
    overwritten = {path.resolve() for path in drawn.values()} & {Path(file).resolve() for file in files}
    if overwritten:
        return refuse("predict", f"{min(overwritten)} would be overwritten: choose another --output than {output}")
    try:
        check_output(output)
        predictor: ImagePredictor[Instances] = predictor_of(
            args, device=args.device, score_threshold=args.score_threshold, batch_size=args.batch_size
        )
        predictor = with_views(predictor, args)
        if args.class_threshold:
            predictor.score_threshold = predictor.thresholds(dict(args.class_threshold))
    except (ValueError, OSError) as error:
        return refuse("predict", error, with_traceback=args.traceback)
    predictions = PredictionsFile(output / "predictions.json", predictor.class_names, predictor.category_ids)
    try:
        with stopped_by_signals():
            num_failed += predict(predictor, drawn, predictions)
    except OSError as error:
        return refuse("predict", error)
    except KeyboardInterrupt:
        return interrupted(signal.SIGINT, predictions)
    except Interrupted as error:
        return interrupted(error.signal, predictions)
    limit = f"{args.score_threshold:g}"
    if args.class_threshold:
        limit += f" (other thresholds for {printable(', '.join(dict(args.class_threshold)))})"
    print(f"{predictions.num_found} detections of score >= {limit} in {predictions.num_images} images")
    if not predictions.num_found and predictions.highest is not None:
        print(predictions.hint())
    print(f"drawn in {printable(str(output))}, listed in {printable(str(predictions.path))}")
    if num_failed:
        print(f"detrex-lite predict: {num_failed} could not be read, see above", file=sys.stderr)
    return 1 if num_failed else 0


def with_views(predictor: ImagePredictor[Instances], args: argparse.Namespace) -> ImagePredictor[Instances]:
    """Wrap the predictor for tiles and for mirrored and scaled views, if the arguments ask for any.

    Raises:
        ValueError: for arguments outside their range.
    """
    fusion = {"fusion": args.fusion} if args.fusion else {}
    if args.flip or args.scales != (1.0,):
        predictor = AugmentedPredictor(predictor, flip=args.flip, scales=args.scales, **fusion)
    if args.tile is not None:
        overlap = {} if args.overlap is None else {"overlap": args.overlap}
        predictor = TiledPredictor(predictor, tile=args.tile, whole_image=not args.no_whole_image, **overlap, **fusion)
    return predictor


def predict(predictor: ImagePredictor[Instances], drawn: dict[str, Path], predictions: "PredictionsFile") -> int:
    """Detect objects in images, and draw and list them.

    Args:
        predictor: the detector.
        drawn: image file -> path of its drawing.
        predictions: the list of detections.

    Returns:
        The number of images that failed; each is reported.

    Raises:
        OSError: when a result cannot be written; the message names the file.
    """
    num_failed = 0
    with predictions.written_at_the_end():
        for file, result in tqdm(predictor.iterate(drawn), total=len(drawn), unit="image", disable=None):
            assert isinstance(file, str)
            try:
                if isinstance(result, ValueError):
                    raise result
                # The predictor has already removed low scores.
                picture = draw_detections(read_image(file), result, predictor.class_names, score_threshold=0)
            except (ValueError, MemoryError) as error:
                reason = str(error) or f"{file}: there is not enough memory to draw it"
                tqdm.write(f"detrex-lite predict: {printable(reason)}", file=sys.stderr)
                num_failed += 1
                continue
            # Pillow ignores incomplete writes to files, so the image is encoded in memory.
            encoded = io.BytesIO()
            is_jpeg = drawn[file].suffix in JPEG_SUFFIXES
            picture.save(encoded, format="JPEG" if is_jpeg else "PNG", quality=95)
            with atomic_file(drawn[file]) as drawing:
                drawing.write(encoded.getbuffer())
            predictions.add(file, drawn[file].name, result)
    return num_failed


class PredictionsFile:
    """Detections as a COCO data set whose annotations have a `score`; ids count from 1.

    `segmentation` contains masks as run lengths, and `area` their number of pixels. Without masks, `area` is that of
    the box.

    Args:
        path: path of the file, which is replaced at the beginning, and again as detections are added.
        class_names: K names.
        category_ids: K category ids of the data set; 1..K when they are not known.

    Attributes:
        num_images, num_found: the numbers of listed images and detections.
        highest: information on the image with the highest score, even below the threshold; None if the model has not
            predicted any score.
    """

    def __init__(self, path: Path, class_names: Sequence[str], category_ids: Sequence[int] = ()):
        self.path = path
        self.highest: ImageInfo | None = None
        self._category_ids = [*category_ids] or [*range(1, len(class_names) + 1)]
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._content = {
            "images": self._images,
            "categories": [
                {"id": category_id, "name": name}
                for category_id, name in zip(self._category_ids, class_names, strict=True)
            ],
            "annotations": self._annotations,
        }
        self._next_write = 0.0

    @property
    def num_images(self) -> int:
        return len(self._images)

    @property
    def num_found(self) -> int:
        return len(self._annotations)

    def add(self, file: str, drawn: str, instances: Instances) -> None:
        """Add the detections of an image, and write the file if the last write was long enough ago."""
        self._remember_highest(instances.info)
        height, width = instances.image_size
        image_id = len(self._images) + 1
        self._images.append({"id": image_id, "file_name": file, "width": width, "height": height, "drawn": drawn})
        values = zip(
            instances.pred_boxes.tensor.double().tolist(),
            instances.scores.double().tolist(),
            instances.pred_classes.tolist(),
            _masks(instances),
            strict=True,
        )
        for (x0, y0, x1, y1), score, class_index, mask in values:
            self._annotations.append(
                {
                    "id": len(self._annotations) + 1,
                    "image_id": image_id,
                    "category_id": self._category_ids[class_index],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                    "score": score,
                    **mask,
                }
            )
        if time.monotonic() >= self._next_write:
            self._write()

    def _remember_highest(self, info: ImageInfo) -> None:
        best = self.highest.highest_score if self.highest is not None else None
        if info.highest_score is not None and (best is None or info.highest_score > best):
            self.highest = info

    def hint(self) -> str:
        """A threshold to suggest when no detection passed the current one."""
        best = self.highest
        assert best is not None
        assert best.highest_score is not None
        assert best.highest_class is not None
        return (
            f"the highest score is {best.highest_score:.3g} ({best.class_names[best.highest_class]} in "
            f"{printable(str(best.file_name))}): --conf {threshold_below(best.highest_score):g} would show it"
        )

    @contextlib.contextmanager
    def written_at_the_end(self) -> Iterator[None]:
        """Write the file when the block begins, and again when it ends, also by an exception."""
        self._write()
        try:
            yield
        finally:
            self._write()

    def _write(self) -> None:
        start = time.monotonic()
        text = json.dumps(self._content, indent=1, ensure_ascii=False)
        with atomic_file(self.path) as file:
            # Bytes of file names that are not UTF-8 are surrogates in Python; \udc80 is valid JSON for such a byte.
            file.write(text.encode("utf-8", errors="backslashreplace"))
        end = time.monotonic()
        self._next_write = end + max(SECONDS_BETWEEN_WRITES, (end - start) / SHARE_OF_WRITES)


def _masks(instances: Instances) -> list[dict[str, Any]]:
    """The additional entries of each annotation when there are masks."""
    if not instances.has("pred_masks"):
        return [{}] * len(instances)
    masks = instances.pred_masks
    areas = masks.sum(dim=(1, 2)).tolist()
    return [
        {"area": area, "segmentation": segmentation}
        for area, segmentation in zip(areas, run_lengths(masks), strict=True)
    ]


class Interrupted(BaseException):
    """A signal requests the program to end."""

    def __init__(self, number: int):
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Inside, SIGTERM raises `Interrupted`; SIGINT raises KeyboardInterrupt anyway."""

    def stop(number: int, frame: object) -> None:
        raise Interrupted(number)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def interrupted(number: signal.Signals, predictions: PredictionsFile) -> int:
    """Print where the detections so far are; returns the exit status."""
    listed = f"detections in {predictions.num_images} images are in {printable(str(predictions.path))}"
    print(f"detrex-lite predict: stopped by {number.name}; {listed}", file=sys.stderr)
    return 128 + number


def check_output(output: Path) -> None:
    """Check before loading a model that the output can be written; leaves no files behind.

    Raises:
        OSError: when files cannot be written there; the message names the folder.
    """
    existing = next(path for path in (output, *output.absolute().parents) if os.path.exists(path))
    try:
        if (output / "predictions.json").is_dir():
            raise IsADirectoryError(errno.EISDIR, "predictions.json in it is a folder")
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"0")
    except OSError as error:
        raise OSError(f"--output {output} cannot be written: {existing}: {error.strerror}") from error


def find_files(paths: Iterable[str]) -> tuple[list[str], int]:
    """The image files of all paths without duplicates, and the number of paths without images, which are reported."""
    files: dict[Path, str] = {}
    num_failed = 0
    for path in paths:
        try:
            for file in list_images(path):
                files.setdefault(Path(file).resolve(), file)
        except DatasetError as error:
            print(f"detrex-lite predict: {printable(str(error))}", file=sys.stderr)
            num_failed += 1
    return list(files.values()), num_failed


def drawn_paths(files: Sequence[str], output: Path) -> dict[str, Path]:
    """The path of each file's drawing: it has the name of the file, with a number if several files share a name."""
    taken: set[str] = set()
    drawn = {}
    for file in files:
        suffix = Path(file).suffix.lower()
        # Drawings of images other than JPEG are lossless.
        stem, suffix = Path(file).stem, suffix if suffix in JPEG_SUFFIXES else ".png"
        while len(os.fsencode(stem)) > LONGEST_STEM:
            stem = stem[:-1]
        name, number = f"{stem}{suffix}", 1
        while name.lower() in taken:  # some file systems ignore case
            number += 1
            name = f"{stem}_{number}{suffix}"
        taken.add(name.lower())
        drawn[file] = output / name
    return drawn
