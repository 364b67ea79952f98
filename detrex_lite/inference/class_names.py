"""Finds the names and category ids of a trained model's classes."""

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from ..coco_classes import COCO_CATEGORY_IDS, COCO_CLASSES
from ..config import instantiate

logger = logging.getLogger(__name__)


class Classes(NamedTuple):
    """The classes of a model.

    Attributes:
        names: K names.
        category_ids: K ids of the classes in annotation files, in the same order.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]


def find_classes(num_classes: int, stored: Mapping[str, Any], config: DictConfig) -> Classes:
    """Find the classes of a model: names by `find_class_names`, and their category ids in the data set.

    The ids are those of the checkpoint, or of the annotation file of the config's test data set if it exists and has
    these names, or COCO's for its 80 classes. If the ids are unknown, they are 1..K.

    Args:
        num_classes: K of the model.
        stored: content of the checkpoint file; empty without a checkpoint.
        config: the complete config.
    """
    names = find_class_names(num_classes, stored, config)
    ids = stored.get("category_ids")
    if _is_list_of(ids, num_classes) and tuple(map(str, stored.get("class_names") or ())) == names:
        return Classes(names, tuple(int(category_id) for category_id in ids or ()))
    annotations = OmegaConf.select(config, "dataloader.test.dataset.annotations")
    # Only if the annotation file exists, because building other data sets may create or search for files.
    is_there = isinstance(annotations, str) and os.path.isfile(os.path.expanduser(annotations))
    dataset = _data_set(config) if is_there else None
    if dataset is not None and tuple(getattr(dataset, "class_names", ())) == names:
        return Classes(names, tuple(int(category_id) for category_id in dataset.category_ids))
    if names == COCO_CLASSES:
        return Classes(names, COCO_CATEGORY_IDS)
    return Classes(names, tuple(range(1, num_classes + 1)))


def find_class_names(num_classes: int, stored: Mapping[str, Any], config: DictConfig) -> tuple[str, ...]:
    """Find the names of a model's classes, in the first source that has as many names as the model has classes.

    The sources are the checkpoint, the test data set in the config (its `class_names`, or else its annotations, if they
    exist), the 80 classes of COCO, and finally "class 0", "class 1", ...

    Args:
        num_classes: K of the model.
        stored: content of the checkpoint file; empty without a checkpoint.
        config: the complete config.
    """
    sources = (
        lambda: stored.get("class_names"),
        lambda: OmegaConf.select(config, "dataloader.test.dataset.class_names"),
        lambda: getattr(_data_set(config), "class_names", None),
        lambda: COCO_CLASSES,
    )
    for source in sources:
        names = source()
        if _is_list_of(names, num_classes):
            return tuple(str(name) for name in names or ())
    return tuple(f"class {index}" for index in range(num_classes))


def _is_list_of(values: Any, number: int) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str) and len(values) == number


def _data_set(config: DictConfig) -> Any:
    """Build the config's test data set; None when the config has none, or its files do not exist."""
    node = OmegaConf.select(config, "dataloader.test.dataset")
    if node is None:
        return None
    try:
        return instantiate(node)
    except (ValueError, OSError) as error:  # prediction does not need the data set
        logger.debug("No classes from the config's test data set: %s", error)
        return None
