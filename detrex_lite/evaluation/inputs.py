"""Lookup of the data set's image that a model's input belongs to."""

import logging
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any

from ..data.faults import DatasetError

logger = logging.getLogger(__name__)

MOST_NAMED = 5  # files in a warning


def image_of(model_input: dict[str, Any], dataset: Any, positions: Mapping[int, int]) -> tuple[int, str]:
    """Return the id of an input's image, and its description for messages.

    Args:
        model_input: a dict with `image_id`, and `file_name` for messages.
        dataset: the data set.
        positions: the positions of its images by their ids.

    Raises:
        ValueError: when the input has no id.
        DatasetError: when the data set has no such image, or another file with this id, because the test loader and
            the evaluator have different data sets.
    """
    if "image_id" not in model_input:
        raise ValueError("an input of the model has no 'image_id', which the evaluator needs to identify its image")
    image_id = int(model_input["image_id"])
    where = f"image {image_id}" + (f" ({model_input['file_name']})" if "file_name" in model_input else "")
    if image_id not in positions:
        raise DatasetError(
            f"{where} is not in the evaluator's data set {dataset.name!r} with its {len(dataset)} images"
        )
    file_name = dataset.file_name(positions[image_id])
    if "file_name" in model_input and not _is_same_file(model_input["file_name"], file_name):
        raise DatasetError(
            f"{where} is {file_name} in the evaluator's data set {dataset.name!r}: the test loader and the evaluator "
            "have different data sets (dataloader.test.dataset and dataloader.evaluator.dataset)"
        )
    return image_id, where


def _is_same_file(first: str, second: str) -> bool:
    """Whether two paths agree; one of them may begin further up in the tree of folders."""
    pairs = zip(reversed(PurePath(first).parts), reversed(PurePath(second).parts), strict=False)
    return all(part == other for part, other in pairs)


def missing_images(dataset: Any, positions: Mapping[int, int], processed: Collection[int], objects: str) -> list[int]:
    """Return the positions of the images that the evaluator did not get, and log a warning with their files.

    Args:
        dataset: the data set.
        positions: the positions of its images by their ids.
        processed: the ids of the processed images.
        objects: the name of what counts as missed, such as "objects".
    """
    missing = [index for image_id, index in positions.items() if image_id not in processed]
    if missing:
        logger.warning(
            "Only %d of %d images were processed; the %s of the others count as missed: %s%s.",
            len(positions) - len(missing),
            len(positions),
            objects,
            ", ".join(dataset.file_name(index) for index in missing[:MOST_NAMED]),
            ", ..." if len(missing) > MOST_NAMED else "",
        )
    return missing
