"""Data sets of detectron2's catalogs (https://github.com/facebookresearch/detectron2): read, and added to.

The catalogs hold, by name, a function that returns one dict per image, and what is known of the classes. detectron2 is
imported when one of the catalogs is asked for; the conversions work on plain dicts.
"""

import functools
import math
import numbers
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pycocotools import mask

from ..errors import did_you_mean
from ..structures import checked_segmentation
from .dataset import DetectionDataset
from .faults import MAX_SIDE, DatasetError, check_class_names, flag, integer, real
from .packing import AnnotationTable, pack
from .segmentations import PanopticFiles, PanopticSegments

# The numbers of detectron2.structures.BoxMode. Lengths are in pixels (ABS) or shares of the image's sides (REL);
# XYWHA is centre, width, height and an angle in degrees, counter-clockwise.
XYXY_ABS, XYWH_ABS, XYXY_REL, XYWH_REL, XYWHA_ABS = range(5)
BOX_MODES = ("XYXY_ABS", "XYWH_ABS", "XYXY_REL", "XYWH_REL", "XYWHA_ABS")

INSTALL_DETECTRON2 = (
    "it comes as source and is compiled when it is installed: clone https://github.com/facebookresearch/detectron2 and "
    "run `pip install --no-build-isolation -e detectron2` in the environment of torch; docs/detectron2.md says more"
)

_registered: dict[str, DetectionDataset] = {}


def load_detectron2_dataset(name: str, *, masks: bool = False) -> DetectionDataset:
    """A data set that is registered in detectron2's `DatasetCatalog`; read once, later calls return the same object.

    Class names are `thing_classes` of its metadata; category ids those of `thing_dataset_id_to_contiguous_id`, or 0 to
    K-1 without. Boxes may be in any `BoxMode`; of a rotated box the upright one around it is taken. Crowds are left out
    of training and ignored in evaluation. An object's area is what its annotation says, or else that of its
    segmentation, or else that of its box.

    Args:
        name: as registered.
        masks: read masks, too: the `segmentation` of each object, or in a panoptic data set (`pan_seg_file_name`) each
            segment, of things and stuff, as an object; its classes are then the `stuff_classes` of the metadata, which
            are all of them.

    Raises:
        DatasetError: when there is no such data set, it has no class names or masks, or an entry is malformed.
        ImportError: when detectron2 is not installed.
    """
    datasets, _ = _catalogs()
    if name not in datasets:
        raise DatasetError(
            f"detectron2's DatasetCatalog has no {name!r}{did_you_mean(name, datasets)}; a data set is registered by "
            "code that runs before, such as a line of the config file"
        )
    return _load(name, datasets[name], bool(masks))


@functools.lru_cache(maxsize=8)
def _load(name: str, read: Callable[[], Sequence[Mapping[str, Any]]], masks: bool) -> DetectionDataset:
    records = read()
    _, metadata = _catalogs()
    about = metadata.get(name)  # after reading, which may be what fills it
    is_panoptic = masks and _is_panoptic(records)
    kind = "stuff" if is_panoptic else "thing"
    names = about.get(f"{kind}_classes")
    if names is None:
        raise DatasetError(
            f"the metadata of {name!r} has no class names: set MetadataCatalog.get({name!r}).{kind}_classes = [...]"
        )
    ids = about.get("thing_dataset_id_to_contiguous_id")
    if ids is not None and is_panoptic:
        ids = {**(about.get("stuff_dataset_id_to_contiguous_id") or {}), **ids}
    category_ids = None if ids is None else sorted(ids, key=ids.get)
    return from_detectron2_records(records, name=name, class_names=names, category_ids=category_ids, masks=masks)


def _is_panoptic(records: Sequence[Mapping[str, Any]]) -> bool:
    return any("pan_seg_file_name" in record for record in records)


def register_detectron2_dataset(dataset: DetectionDataset, name: str | None = None) -> str:
    """Add a data set of this package to detectron2's catalogs, for its loaders, evaluators and drawing.

    Adding it again under the same name changes nothing.

    Args:
        dataset: what `load_coco` and its like return.
        name: the name in the catalogs; the data set's own when None.

    Returns:
        That name.

    Raises:
        DatasetError: when another data set has the name.
        ImportError: when detectron2 is not installed.
    """
    datasets, metadata = _catalogs()
    name = dataset.name if name is None else name
    if name in datasets:
        if _registered.get(name) is not dataset:
            raise DatasetError(
                f"detectron2's DatasetCatalog has another {name!r} already: give the data set a new name"
            )
        return name
    datasets.register(name, functools.partial(to_detectron2_records, dataset))
    ids = {category_id: k for k, category_id in enumerate(dataset.category_ids)}
    about: dict[str, Any] = {"thing_classes": list(dataset.class_names), "thing_dataset_id_to_contiguous_id": ids}
    if isinstance(dataset.segmentations, PanopticFiles):
        things = {category_id: k for category_id, k in ids.items() if dataset.is_thing[k]}
        stuff = {category_id: k for category_id, k in ids.items() if not dataset.is_thing[k]}
        about |= {"stuff_classes": list(dataset.class_names), "thing_dataset_id_to_contiguous_id": things}
        about |= {"stuff_dataset_id_to_contiguous_id": stuff, "panoptic_root": dataset.segmentations.root}
    metadata.get(name).set(**about, evaluator_type="coco")
    _registered[name] = dataset
    return name


def _catalogs() -> tuple[Any, Any]:
    try:
        from detectron2.data import DatasetCatalog, MetadataCatalog
    except ImportError as error:
        raise ImportError(f"detectron2's catalogs cannot be had ({error}): {INSTALL_DETECTRON2}") from error
    return DatasetCatalog, MetadataCatalog


def to_detectron2_records(dataset: DetectionDataset) -> list[dict[str, Any]]:
    """The images of a data set as detectron2's dicts: boxes in XYXY_ABS, classes in 0..K-1, crowds marked, and masks
    where there are. A panoptic data set has `segments_info` and `pan_seg_file_name` instead of `annotations`.

    Images of a data set without annotations have no `annotations`, as detectron2 has it for prediction.
    """
    records = []
    for record in dataset:
        columns = (record[key].tolist() for key in ("boxes", "classes", "iscrowd", "area"))
        annotations: list[dict[str, Any]] = [
            {"bbox": box, "bbox_mode": XYXY_ABS, "category_id": class_index, "iscrowd": int(is_crowd), "area": area}
            for box, class_index, is_crowd, area in zip(*columns, strict=True)
        ]
        image = {key: record[key] for key in ("file_name", "image_id", "height", "width")}
        segmentations = record.get("segmentations")
        if isinstance(segmentations, PanopticSegments):
            for annotation, segment_id in zip(annotations, segmentations.ids.tolist(), strict=True):
                annotation |= {"id": segment_id, "isthing": bool(dataset.is_thing[annotation["category_id"]])}
            image |= {"pan_seg_file_name": segmentations.path, "segments_info": annotations}
        elif dataset.has_annotations:
            for annotation, shape in zip(annotations, segmentations or (), strict=segmentations is not None):
                annotation["segmentation"] = shape if isinstance(shape, dict) else [each.tolist() for each in shape]
            image["annotations"] = annotations
        records.append(image)
    return records


def from_detectron2_records(
    records: Sequence[Mapping[str, Any]],
    *,
    name: str,
    class_names: Sequence[str],
    category_ids: Sequence[int] | None = None,
    masks: bool = False,
) -> DetectionDataset:
    """A data set from detectron2's dicts; see `load_detectron2_dataset`.

    Args:
        records: one per image: `file_name`, `height`, `width` and, where there are objects, `annotations`: dicts with
            `bbox`, `bbox_mode` (a number of `BoxMode`) and `category_id` (0..K-1), optionally `iscrowd`, `area`,
            `segmentation` (COCO's polygons or run lengths). `image_id` is taken where all images have a whole number,
            otherwise images are numbered from 1.
        name: what messages call the data set.
        class_names: K names.
        category_ids: K ids for predictions written as COCO JSON; 0..K-1 when None, as detectron2 has it.
        masks: every object has a `segmentation`, which is read; or else every image has `segments_info`, a list of
            dicts like those of `annotations` with `id` and `isthing`, whose boxes are in XYWH_ABS without a mode,
            and `pan_seg_file_name`.

    Raises:
        DatasetError: when there is no record, a key is missing, an id occurs twice, or a box or class is malformed.
    """
    names = check_class_names(class_names) or ()
    ids = tuple(range(len(names)) if category_ids is None else category_ids)
    if len(ids) != len(names):
        raise DatasetError(f"{name}: {len(ids)} category ids for {len(names)} class names")
    labels: list[str] = []
    is_panoptic = masks and _is_panoptic(records)
    key, default_mode = ("segments_info", {"bbox_mode": XYWH_ABS}) if is_panoptic else ("annotations", {})
    table = AnnotationTable(lambda row: labels[row], segmentations=[] if masks and not is_panoptic else None)
    files: list[str] = []
    is_thing = [True] * len(names)
    for owner, (record, image_id) in enumerate(zip(records, _image_ids(records, name), strict=True)):
        where = f"{name}: record {owner}"
        height, width = (_side(record, key, where) for key in ("height", "width"))
        table.add_image(str(_entry(record, "file_name", where)), image_id, (height, width))
        where += f" ({record['file_name']})"
        if is_panoptic:
            files.append(str(_entry(record, "pan_seg_file_name", where)))
        for number, given in enumerate(_entry(record, key, where) if is_panoptic else record.get(key, ())):
            annotation = {**default_mode, **given}
            labels.append(f"{where}, {'segment' if is_panoptic else 'annotation'} {number}")
            category = _entry(annotation, "category_id", labels[-1])
            mode = _entry(annotation, "bbox_mode", labels[-1])
            box = _entry(annotation, "bbox", labels[-1])
            try:
                table.add_box(
                    owner,
                    xyxy_of(box, mode, (height, width)),
                    class_index=integer(category, "category_id", low=0, high=len(names) - 1),
                    iscrowd=flag(annotation.get("iscrowd", 0), "iscrowd"),
                    area=_area(annotation),
                    annotation_id=(
                        integer(_entry(annotation, "id", labels[-1]), "id", low=1, high=2**24 - 1)
                        if is_panoptic
                        else len(labels)
                    ),
                    segmentation=(
                        None
                        if table.segmentations is None
                        else checked_segmentation(_entry(annotation, "segmentation", labels[-1]), (height, width))
                    ),
                )
                is_thing[table.classes[-1]] = flag(annotation.get("isthing", True), "isthing")
            except DatasetError:
                raise
            except (TypeError, ValueError) as error:
                raise DatasetError(f"{labels[-1]}: {error}") from error
    return pack(
        table,
        name=name,
        class_names=names,
        category_ids=ids,
        has_annotations=any(key in record for record in records),
        panoptic=PanopticFiles("", files) if is_panoptic else None,
        is_thing=is_thing,
    )


def xyxy_of(box: Sequence[float], mode: int, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The corners x0, y0, x1, y1 in pixels of a box.

    Args:
        box: 4 numbers, 5 in mode XYWHA_ABS.
        mode: a number of `BOX_MODES`.
        size: (height, width) of the image in pixels.

    Raises:
        ValueError: when the mode is unknown or the box has another length.
    """
    if mode not in range(len(BOX_MODES)):
        listed = ", ".join(f"{number} {mode_name}" for number, mode_name in enumerate(BOX_MODES))
        raise ValueError(f"bbox_mode {mode!r} is none of BoxMode: {listed}")
    length = 5 if mode == XYWHA_ABS else 4
    values = [float(value) for value in box]
    if len(values) != length:
        raise ValueError(f"a box in {BOX_MODES[mode]} has {length} numbers, not {len(values)}: {values}")
    if mode == XYWHA_ABS:
        x, y, width, height, degrees = values
        cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
        half_width, half_height = (width * cosine + height * sine) / 2, (height * cosine + width * sine) / 2
        return x - half_width, y - half_height, x + half_width, y + half_height
    if mode in (XYXY_REL, XYWH_REL):
        height, width = size
        values = [value * side for value, side in zip(values, (width, height, width, height), strict=True)]
    x0, y0, x1, y1 = values
    return (x0, y0, x0 + x1, y0 + y1) if mode in (XYWH_ABS, XYWH_REL) else (x0, y0, x1, y1)


def _entry(values: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in values:
        raise DatasetError(f"{where} has no {key!r}")
    return values[key]


def _side(record: Mapping[str, Any], key: str, where: str) -> int:
    value = _entry(record, key, where)
    try:
        return integer(value, key, low=1, high=MAX_SIDE)
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from None


def _image_ids(records: Sequence[Mapping[str, Any]], name: str) -> Sequence[int]:
    ids = [record.get("image_id") for record in records]
    if not all(isinstance(image_id, numbers.Integral) for image_id in ids):  # detectron2 takes text, and none, too
        return range(1, len(ids) + 1)
    twice = [image_id for image_id, count in Counter(ids).items() if count > 1]
    if twice:
        raise DatasetError(f"{name}: image_id {twice[0]} occurs twice")
    try:
        return [integer(image_id, "image_id") for image_id in ids]
    except ValueError as error:
        raise DatasetError(f"{name}: {error}") from None


def _area(annotation: Mapping[str, Any]) -> float:
    """In square pixels; NaN, which stands for that of the box, when nothing says more."""
    if "area" in annotation:
        return real(annotation["area"], "area")
    shape = annotation.get("segmentation")
    if isinstance(shape, Mapping):
        lengths = mask.frPyObjects(shape, *shape["size"]) if isinstance(shape["counts"], list) else shape
        return float(mask.area(lengths))
    if shape:
        return sum(_polygon_area(polygon) for polygon in shape)
    if annotation["bbox_mode"] == XYWHA_ABS:
        return float(annotation["bbox"][2]) * float(annotation["bbox"][3])
    return math.nan


def _polygon_area(polygon: Sequence[float]) -> float:
    """By the shoelace formula; a polygon is x0, y0, x1, y1, ... in pixels."""
    x, y = [float(value) for value in polygon[0::2]], [float(value) for value in polygon[1::2]]
    return abs(sum(x[i - 1] * y[i] - x[i] * y[i - 1] for i in range(len(x)))) / 2
