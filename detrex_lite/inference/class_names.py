"""What the classes of a trained model are called."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..config import instantiate

logger = logging.getLogger(__name__)

COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
"""The names of COCO's 80 classes in the order of their ids."""


def find_class_names(num_classes: int, stored: Mapping[str, Any], config: DictConfig) -> tuple[str, ...]:
    """The names of a model's classes: the first of these that has as many as the model.

    The checkpoint, the test data set in the config (its `class_names`, or else its annotations, when they are
    there), the 80 classes of COCO, and in the end "class 0", "class 1", ...

    Args:
        num_classes: K of the model.
        stored: what the checkpoint file holds; empty when there is none.
        config: the whole config.
    """
    sources = (
        lambda: stored.get("class_names"),
        lambda: OmegaConf.select(config, "dataloader.test.dataset.class_names"),
        lambda: _names_of_data_set(config),
        lambda: COCO_CLASSES,
    )
    for source in sources:
        names = source()
        if isinstance(names, Sequence) and not isinstance(names, str) and len(names) == num_classes:
            return tuple(str(name) for name in names)
    return tuple(f"class {index}" for index in range(num_classes))


def _names_of_data_set(config: DictConfig) -> tuple[str, ...] | None:
    node = OmegaConf.select(config, "dataloader.test.dataset")
    if node is None:
        return None
    try:
        return getattr(instantiate(node), "class_names", None)
    except (ValueError, OSError) as error:  # predicting needs no data set
        logger.debug("No class names from the config's test data set: %s", error)
        return None
