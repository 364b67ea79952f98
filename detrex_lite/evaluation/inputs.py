"""Which image of a data set a model's input is."""

from collections.abc import Container
from typing import Any


def image_of(one_input: dict[str, Any], dataset: Any, known_ids: Container[int]) -> tuple[int, str]:
    """The id of an input's image, and what messages call it.

    Args:
        one_input: with `image_id`, and for messages `file_name`.
        dataset: the data set.
        known_ids: those of its images.

    Raises:
        ValueError: when the input has no id, or the data set no such image.
    """
    if "image_id" not in one_input:
        raise ValueError("an input of the model has no 'image_id': the evaluator cannot tell its image")
    image_id = int(one_input["image_id"])
    where = f"image {image_id}" + (f" ({one_input['file_name']})" if "file_name" in one_input else "")
    if image_id not in known_ids:
        raise ValueError(f"{where} is not in the data set {dataset.name!r} with its {len(dataset)} images")
    return image_id, where
