"""Panoptic segmentations in files: COCO's JSON with a PNG for each image (https://cocodataset.org/#format-data).

The colour of a pixel is the id of its segment: red + 256 · green + 256² · blue; black is void.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..data import DatasetError
from ..data.coco import read_json
from ..data.faults import FaultLog, flag, integer, name_of, shown
from .panoptic_quality import Segment

MAX_ID = 256**3 - 1


def ids_to_colours(ids: np.ndarray) -> np.ndarray:
    """Segment ids (H, W), 0 to 256³ - 1, as pixels (H, W, 3) uint8."""
    return np.stack([ids >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


def colours_to_ids(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3) uint8 as segment ids (H, W) int64."""
    red, green, blue = np.moveaxis(pixels.astype(np.int64), -1, 0)
    return red + (green << 8) + (blue << 16)


class PanopticImage(NamedTuple):
    """The segments of one image.

    Attributes:
        file_name: of its PNG, in the folder of segmentations.
        segments: void has none.
    """

    file_name: str
    segments: tuple[Segment, ...]


class PanopticTruth:
    """Annotated panoptic segmentations: COCO's JSON file and its folder of PNGs.

    Class k is the k-th category by id.

    Args:
        annotations: the JSON file. Without the key `annotations` it describes images of which predictions alone can be
            made.
        segmentations: the folder of the PNGs; None: what the JSON file is called without its suffix, beside it.

    Attributes:
        name: what messages call it.
        category_ids, class_names, is_thing: of the K classes.
        image_ids: of all images.
        images: image id -> `PanopticImage`; None without annotations.

    Raises:
        DatasetError: when a file or the folder is missing, or an entry is malformed; it names the file and the id.
    """

    def __init__(self, annotations: str | Path, segmentations: str | Path | None = None):
        path = Path(os.path.expanduser(annotations))
        self.name = path.stem
        self.folder = Path(os.path.expanduser(segmentations)) if segmentations else path.with_suffix("")
        content = read_json(str(path), FaultLog())
        categories = sorted((_category(path, entry) for entry in content["categories"]), key=lambda one: one[0])
        self.category_ids = tuple(category_id for category_id, _, _ in categories)
        self.class_names = tuple(name for _, name, _ in categories)
        self.is_thing = tuple(is_thing for _, _, is_thing in categories)
        if len(set(self.category_ids)) < len(categories):
            raise DatasetError(f"{path}: two categories have one id; the ids are {shown(self.category_ids)}")
        self.image_ids = tuple(_checked(f"{path}: image", entry, _image_id) for entry in content["images"])
        self.images: dict[int, PanopticImage] | None = None
        if "annotations" not in content:
            return
        if not self.folder.is_dir():
            raise DatasetError(f"{path}: its folder of segmentations {self.folder} does not exist")
        classes = {category_id: number for number, category_id in enumerate(self.category_ids)}
        self.images, known = {}, set(self.image_ids)
        for entry in content["annotations"]:
            image_id, image = _checked(f"{path}: annotation", entry, lambda one: _panoptic_image(one, classes))
            if image_id in self.images:
                raise DatasetError(f"{path}: image {image_id} has two annotations")
            if image_id not in known:
                raise DatasetError(f"{path}: an annotation is of image {image_id}, which is not among the images")
            self.images[image_id] = image
        missing = [image_id for image_id in self.image_ids if image_id not in self.images]
        if missing:
            raise DatasetError(f"{path}: {len(missing)} images have no annotation, the first is image {missing[0]}")

    def read_ids(self, image_id: int) -> np.ndarray:
        """The segment ids of an annotated image's pixels, (H, W) int64; 0 is void.

        Raises:
            DatasetError: when its PNG cannot be read.
        """
        assert self.images is not None
        path = self.folder / self.images[image_id].file_name
        try:
            with Image.open(path) as image:
                if image.mode not in ("RGB", "RGBA"):
                    raise DatasetError(
                        f"{path}: the segmentation of image {image_id} must be an RGB image, whose colours are ids; "
                        f"this is of mode {image.mode}"
                    )
                return colours_to_ids(np.asarray(image.convert("RGB")))
        except OSError as error:
            raise DatasetError(f"the segmentation of image {image_id} cannot be read: {path}: {error}") from error


def _checked(where: str, entry: Any, read: Any) -> Any:
    """What `read` makes of an entry; what is wrong with it is told with its place."""
    try:
        return read(entry)
    except KeyError as error:
        raise DatasetError(f"{where} {shown(entry)} has no {error}") from None
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{where} {shown(entry)}: {error}") from None


def _image_id(entry: Mapping[str, Any]) -> int:
    return integer(entry["id"], "id")


def _category(path: Path, entry: Any) -> tuple[int, str, bool]:
    def read(one: Mapping[str, Any]) -> tuple[int, str, bool]:
        return integer(one["id"], "id"), name_of(one["name"], "name"), flag(one["isthing"], "isthing")

    return _checked(f"{path}: category", entry, read)


def _panoptic_image(entry: Mapping[str, Any], classes: Mapping[int, int]) -> tuple[int, PanopticImage]:
    segments = []
    for info in entry["segments_info"]:
        category_id = integer(info["category_id"], "category_id")
        if category_id not in classes:
            raise ValueError(f"the category_id {category_id} of a segment is not among the categories")
        segment_id = integer(info["id"], "id", low=1, high=MAX_ID)
        segments.append(Segment(segment_id, classes[category_id], flag(info.get("iscrowd", 0), "iscrowd")))
    image = PanopticImage(name_of(entry["file_name"], "file_name"), tuple(segments))
    return integer(entry["image_id"], "image_id"), image


def write_segmentation(path: Path, ids: np.ndarray) -> None:
    """Write segment ids (H, W) as a PNG; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids_to_colours(ids)).save(path, format="PNG", compress_level=1)


def panoptic_annotation(
    image_id: int, file_name: str, infos: Sequence[Mapping[str, Any]], ids: np.ndarray, category_ids: Sequence[int]
) -> dict[str, Any]:
    """The entry of an image among the `annotations` of a panoptic JSON file.

    Args:
        image_id: of the image.
        file_name: of its PNG.
        infos: a model's `segments_info`, with class indices as `category_id`.
        ids: (H, W) segment ids.
        category_ids: K ids.
    """
    values, counts = np.unique(ids, return_counts=True)
    areas = dict(zip(values.tolist(), counts.tolist(), strict=True))
    segments = []
    for info in infos:
        segment: dict[str, Any] = {
            "id": int(info["id"]),
            "category_id": category_ids[info["category_id"]],
            "area": areas[int(info["id"])],
            "iscrowd": 0,
        }
        if "score" in info:
            segment["score"] = float(info["score"])
        segments.append(segment)
    return {"image_id": image_id, "file_name": file_name, "segments_info": segments}
