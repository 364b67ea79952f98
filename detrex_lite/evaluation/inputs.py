"""Lookup of the data set's image that a model's input belongs to."""

from collections.abc import Container
from typing import Any


def image_of(model_input: dict[str, Any], dataset: Any, known_ids: Container[int]) -> tuple[int, str]:
    """Return the id of an input's image, and its description for messages.

    Args:
        model_input: a dict with `image_id`, and `file_name` for messages.
        dataset: the data set.
        known_ids: the ids of its images.

    Raises:
        ValueError: when the input has no id, or the data set has no such image.
    """
    if "image_id" not in model_input:
        raise ValueError("an input of the model has no 'image_id', which the evaluator needs to identify its image")
    image_id = int(model_input["image_id"])
    where = f"image {image_id}" + (f" ({model_input['file_name']})" if "file_name" in model_input else "")
    if image_id not in known_ids:
        raise ValueError(f"{where} is not in the data set {dataset.name!r} with its {len(dataset)} images")
    return image_id, where
