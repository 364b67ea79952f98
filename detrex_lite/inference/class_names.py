"""What the classes of a trained model are called."""

import logging
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
        category_ids: K ids that annotation files have for them, in the same order.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]


def find_classes(num_classes: int, stored: Mapping[str, Any], config: DictConfig) -> Classes:
    """The classes of a model: names by `find_class_names`, and the category ids that the data set has for them.

    The ids are those in the checkpoint, or of the test data set in the config when it is there and has these names, or
    COCO's for its 80 classes. Where nothing is known they are 1..K.

    Args:
        num_classes: K of the model.
        stored: what the checkpoint file holds; empty when there is none.
        config: the whole config.
    """
    names = find_class_names(num_classes, stored, config)
    ids = stored.get("category_ids")
    if _is_list_of(ids, num_classes) and tuple(map(str, stored.get("class_names") or ())) == names:
        return Classes(names, tuple(int(category_id) for category_id in ids or ()))
    dataset = _data_set(config)
    if dataset is not None and tuple(getattr(dataset, "class_names", ())) == names:
        return Classes(names, tuple(int(category_id) for category_id in dataset.category_ids))
    if names == COCO_CLASSES:
        return Classes(names, COCO_CATEGORY_IDS)
    return Classes(names, tuple(range(1, num_classes + 1)))


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
    """The config's test data set; None when there is none, or its files are not here."""
    node = OmegaConf.select(config, "dataloader.test.dataset")
    if node is None:
        return None
    try:
        return instantiate(node)
    except (ValueError, OSError) as error:  # predicting needs no data set
        logger.debug("No classes from the config's test data set: %s", error)
        return None
