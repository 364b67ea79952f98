"""Detections in an image, as JSON, NumPy arrays, a pandas data frame or supervision's detections; without torch."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

EXTRA = "results"
"""The extra of setup.py that installs the packages of this module: pandas and supervision."""

PRINTED_ROWS = 10


class ImageInfo(NamedTuple):
    """Information of a predictor about an image, in addition to the detected objects.

    Attributes:
        file_name: path of the image; None for an image that was not read from a file.
        class_names: K names; empty when they are unknown.
        category_ids: K category ids of the classes in the data set; empty when they are unknown.
        highest_score: highest score in the image, including objects below the threshold; None without any object.
        highest_class: class index of the object with the highest score.
    """

    file_name: str | None = None
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    highest_score: float | None = None
    highest_class: int | None = None


NOTHING_KNOWN = ImageInfo()

FOREIGN_NAMES = {
    "to_json": "json.dumps(detections.to_dict())",
    "tojson": "json.dumps(detections.to_dict())",
    "to_df": "detections.to_pandas()",
    "pandas": "detections.to_pandas()",
    "numpy": "detections.to_numpy()",
    "xyxy": "detections.pred_boxes.tensor, or detections.to_numpy()['boxes']",
    "boxes": "detections.pred_boxes, or detections.to_numpy()['boxes']",
    "conf": "detections.scores",
    "confidence": "detections.scores",
    "cls": "detections.pred_classes",
    "class_id": "detections.pred_classes",
    "labels": "detections.pred_classes",
    "masks": "detections.pred_masks",
    "names": "detections.info.class_names",
    "path": "detections.info.file_name",
    "plot": "detrex_lite.visualization.draw_detections(image, detections, predictor.class_names)",
    "show": "detrex_lite.visualization.draw_detections(image, detections, predictor.class_names).show()",
    "save": "detrex_lite.visualization.draw_detections(image, detections, predictor.class_names).save(path)",
}
"""Names of a result's parts in other toolkits -> the corresponding expression in this project."""


def foreign_hint(name: str) -> str:
    """Return a hint for the error about a missing attribute if other toolkits have it; otherwise ""."""
    return f"; here it is {FOREIGN_NAMES[name]}" if name in FOREIGN_NAMES else ""


class DetectionResult:
    """The objects detected in one image: base class of `Instances`, and of the `Detections` of exported files.

    Attributes:
        image_size: (height, width) in pixels of the frame of the boxes.
        info: further information about the image.
    """

    image_size: Any
    info: Any

    def __len__(self) -> int:
        raise NotImplementedError

    def to_numpy(self) -> dict[str, np.ndarray]:
        """Return the objects as arrays.

        Returns:
            `boxes` (n, 4) float32 absolute xyxy in pixels, `scores` (n,) float32, `classes` (n,) int64, and for models
            with masks `masks` (n, height, width) bool.

        Raises:
            ValueError: when these are not detections, but for example annotations.
        """
        raise NotImplementedError

    def _segmentations(self) -> list[dict[str, Any]] | None:
        """Return each mask as COCO's compressed run lengths; None without masks."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return the objects as plain Python values that `json.dumps` accepts.

        Returns:
            `file_name` (None for images that were not read from a file), `height` and `width` of the image in pixels,
            and `objects`. Each object has `class` (0..K-1), `name` and `category_id` (if they are known), `score`,
            `box` (x0, y0, x1, y1 in pixels), and with masks `segmentation` (COCO's compressed run lengths).
        """
        arrays = self.to_numpy()
        objects: list[dict[str, Any]] = []
        rows = zip(arrays["classes"].tolist(), arrays["scores"].tolist(), arrays["boxes"].tolist(), strict=True)
        for index, score, box in rows:
            objects.append({"class": index, **self._labels(index), "score": score, "box": box})
        for row, segmentation in zip(objects, self._segmentations() or (), strict=False):
            row["segmentation"] = segmentation
        height, width = self.image_size
        return {"file_name": self.info.file_name, "height": height, "width": width, "objects": objects}

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with a row for each object, without masks.

        Its columns are `file_name`, `class` (0..K-1), `name`, `category_id`, `score`, and `x0`, `y0`, `x1`, `y1` in
        pixels.

        Raises:
            ImportError: when pandas is not installed.
        """
        pandas = require_optional("pandas", "to_pandas")
        arrays = self.to_numpy()
        labels = [self._labels(index) for index in arrays["classes"].tolist()]
        columns = {
            "file_name": [self.info.file_name] * len(labels),
            "class": arrays["classes"],
            "name": [label.get("name") for label in labels],
            "category_id": [label.get("category_id") for label in labels],
            "score": arrays["scores"],
            **{side: arrays["boxes"][:, column] for column, side in enumerate(("x0", "y0", "x1", "y1"))},
        }
        return pandas.DataFrame(columns)

    def to_supervision(self) -> Any:
        """Return a `supervision.Detections`, with the names of the classes in `data["class_name"]`.

        Raises:
            ImportError: when supervision is not installed.
        """
        supervision = require_optional("supervision", "to_supervision")
        arrays = self.to_numpy()
        names = [self._labels(index).get("name", f"class {index}") for index in arrays["classes"].tolist()]
        return supervision.Detections(
            xyxy=arrays["boxes"],
            mask=arrays.get("masks"),
            confidence=arrays["scores"],
            class_id=arrays["classes"],
            data={"class_name": np.array(names, dtype=str)},
        )

    def _labels(self, index: int) -> dict[str, Any]:
        """Return `name` and `category_id` of a class, if they are known."""
        labels: dict[str, Any] = {}
        if index < len(self.info.class_names):
            labels["name"] = self.info.class_names[index]
        if index < len(self.info.category_ids):
            labels["category_id"] = self.info.category_ids[index]
        return labels

    def _text(self) -> str:
        """Return the objects as a short table, in descending order of scores."""
        height, width = self.image_size
        where = f"{self.info.file_name or 'an image'} ({width}x{height} pixels)"
        label: Callable[[int], str] = lambda index: self._labels(index).get("name", f"class {index}")  # noqa: E731
        if not len(self):
            if self.info.highest_score is None:
                return f"no object in {where}"
            best = f"{self.info.highest_score:.3g} ({label(self.info.highest_class)})"
            return f"no object in {where}; the highest score is {best}"
        arrays = self.to_numpy()
        order = np.argsort(-arrays["scores"], kind="stable")[:PRINTED_ROWS]
        lines = [f"{len(self)} object{'s' * (len(self) > 1)} in {where}:"]
        for row in order.tolist():
            box = " ".join(f"{value:.1f}" for value in arrays["boxes"][row].tolist())
            lines.append(f"  {label(int(arrays['classes'][row]))} {arrays['scores'][row]:.3f}  {box}")
        if len(self) > PRINTED_ROWS:
            lines.append(f"  ... and {len(self) - PRINTED_ROWS} with lower scores")
        return "\n".join(lines)


def require_optional(package: str, needed_for: str) -> Any:
    """Import an optional package.

    Args:
        package: name of the package.
        needed_for: name of the function that the user called.

    Raises:
        ImportError: when it is not installed; the message has the command that installs it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{needed_for} needs the package {package}, which is not installed: pip install 'detrex-lite[{EXTRA}]'"
        ) from error
