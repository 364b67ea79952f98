"""Weights that other projects store with another shape: rows of classes by COCO id, 1x1 convolutions."""

from collections.abc import Collection
from dataclasses import dataclass

from torch import Size, Tensor

from .key_map import matches

# COCO numbers its 80 classes from 1 to 90 and skips these ids.
COCO_UNUSED_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
COCO_IDS = tuple(index for index in range(1, 91) if index not in COCO_UNUSED_IDS)
NUM_IDS = 91
# COCO panoptic numbers its 53 stuff classes above these, and DETR has rows for all ids below 250.
COCO_STUFF_IDS = (92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149)
COCO_STUFF_IDS += (151, 154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201))
NUM_PANOPTIC_IDS = 250

# Bias of classes that do not occur, whose probability is then 0 even in float16.
_NEVER = -1e4


@dataclass(frozen=True)
class CocoRows:
    """A tensor with one row per COCO id from 0 on, of which this project keeps only the rows of existing classes.

    Both have further rows after these (DETR's "no object", those of the label embedding); the other project may have
    additional rows.

    Attributes:
        template: of this project's names.
        spare: number of rows at the end that only the other project has.
        ids: the row of each class in the other project.
        num_ids: number of ids with a row.
    """

    template: str
    spare: int = 0
    ids: tuple[int, ...] = COCO_IDS
    num_ids: int = NUM_IDS

    def applies(self, name: str, names: Collection[str]) -> bool:
        return matches(name, self.template)

    def read(self, value: Tensor, shape: Size) -> Tensor:
        num_extra = shape[0] - len(self.ids)
        if not 0 <= num_extra <= 1 or value.shape[0] != self.num_ids + num_extra + self.spare:
            return value
        return value[[*self.ids, *range(self.num_ids, self.num_ids + num_extra)]]

    def write(self, name: str, value: Tensor) -> Tensor:
        num_extra = value.shape[0] - len(self.ids)
        if not 0 <= num_extra <= 1:
            return value  # the classes are not COCO's, so there are no ids
        shape = (self.num_ids + num_extra + self.spare, *value.shape[1:])
        rows = value.new_full(shape, _NEVER if value.dim() == 1 else 0.0)
        rows[[*self.ids, *range(self.num_ids, self.num_ids + num_extra)]] = value
        return rows


@dataclass(frozen=True)
class AnyRows:
    """Applies the one of several conversions that fits the shape of a tensor.

    Attributes:
        options: the conversions, in the order in which they are tried.
    """

    options: tuple[CocoRows, ...]

    def applies(self, name: str, names: Collection[str]) -> bool:
        return any(option.applies(name, names) for option in self.options)

    def read(self, value: Tensor, shape: Size) -> Tensor:
        converted = (option.read(value, shape) for option in self.options)
        return next((option for option in converted if option.shape == shape), value)

    def write(self, name: str, value: Tensor) -> Tensor:
        converted = (option.write(name, value) for option in self.options)
        return next((option for option in converted if option.shape != value.shape), value)


@dataclass(frozen=True)
class ObjectnessRows(CocoRows):
    """The class head of a two-stage Deformable DETR's encoder, which uses row 0 as the objectness score.

    Other rows are not used; rows 1 to 90 were trained as classes that never occur.
    """

    template: str = "heads.class_embed.#."
    ids: tuple[int, ...] = (0, *COCO_IDS[1:])

    def applies(self, name: str, names: Collection[str]) -> bool:
        if not matches(name, self.template) or not any(
            other_name.startswith("queries.proposals.") for other_name in names
        ):
            return False
        return _number(name) == max(_number(other_name) for other_name in names if matches(other_name, self.template))


@dataclass(frozen=True)
class LinearAsConvolution:
    """The weight of a linear layer that is stored as a 1x1 convolution.

    Attributes:
        template: of this project's names.
    """

    template: str

    def applies(self, name: str, names: Collection[str]) -> bool:
        return matches(name, self.template)

    def read(self, value: Tensor, shape: Size) -> Tensor:
        return value.flatten(1) if value.shape == (*shape, 1, 1) else value

    def write(self, name: str, value: Tensor) -> Tensor:
        return value[..., None, None]


def _number(name: str) -> int:
    """Return the number after `heads.class_embed.` in a name."""
    return int(name.split(".")[2])
