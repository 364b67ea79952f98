"""Weights that other projects store in another shape: rows of classes by COCO id, convolutions of one cell."""

from collections.abc import Collection
from dataclasses import dataclass

from torch import Size, Tensor

from .key_map import matches

# COCO numbers its 80 classes from 1 to 90 and leaves these out.
COCO_UNUSED_IDS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
COCO_IDS = tuple(index for index in range(1, 91) if index not in COCO_UNUSED_IDS)
NUM_IDS = 91
# COCO panoptic numbers its 53 classes of stuff above these, and DETR has rows for ids below 250.
COCO_STUFF_IDS = (92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149)
COCO_STUFF_IDS += (151, 154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201))
NUM_PANOPTIC_IDS = 250

# The bias of a class that does not occur: its probability is 0 in float16, too.
_NEVER = -1e4


@dataclass(frozen=True)
class CocoRows:
    """A tensor with a row for each COCO id from 0 on, of which this project keeps those of the classes that occur.

    Rows after these (DETR's "no object", the label embedding's) follow in both; the other project may have some more.

    Attributes:
        template: of this project's names.
        spare: how many of the other project's last rows this project does not have.
        ids: the row that each class has there.
        num_ids: how many ids have a row there.
    """

    template: str
    spare: int = 0
    ids: tuple[int, ...] = COCO_IDS
    num_ids: int = NUM_IDS

    def applies(self, name: str, names: Collection[str]) -> bool:
        return matches(name, self.template)

    def read(self, value: Tensor, shape: Size) -> Tensor:
        after = shape[0] - len(self.ids)
        if not 0 <= after <= 1 or value.shape[0] != self.num_ids + after + self.spare:
            return value
        return value[[*self.ids, *range(self.num_ids, self.num_ids + after)]]

    def write(self, name: str, value: Tensor) -> Tensor:
        after = value.shape[0] - len(self.ids)
        if not 0 <= after <= 1:
            return value  # not COCO's classes: there are no ids
        shape = (self.num_ids + after + self.spare, *value.shape[1:])
        rows = value.new_full(shape, _NEVER if value.dim() == 1 else 0.0)
        rows[[*self.ids, *range(self.num_ids, self.num_ids + after)]] = value
        return rows


@dataclass(frozen=True)
class AnyRows:
    """Of several conversions of one tensor the one that its shape asks for.

    Attributes:
        options: in the order in which they are tried.
    """

    options: tuple[CocoRows, ...]

    def applies(self, name: str, names: Collection[str]) -> bool:
        return any(one.applies(name, names) for one in self.options)

    def read(self, value: Tensor, shape: Size) -> Tensor:
        converted = (one.read(value, shape) for one in self.options)
        return next((one for one in converted if one.shape == shape), value)

    def write(self, name: str, value: Tensor) -> Tensor:
        converted = (one.write(name, value) for one in self.options)
        return next((one for one in converted if one.shape != value.shape), value)


@dataclass(frozen=True)
class ObjectnessRows(CocoRows):
    """The class head of a two-stage Deformable DETR's encoder, which is trained and read as "some object" in row 0.

    No other row is read; 1 to 90 have been trained as classes that never occur.
    """

    template: str = "heads.class_embed.#."
    ids: tuple[int, ...] = (0, *COCO_IDS[1:])

    def applies(self, name: str, names: Collection[str]) -> bool:
        if not matches(name, self.template) or not any(other.startswith("queries.proposals.") for other in names):
            return False
        return _number(name) == max(_number(other) for other in names if matches(other, self.template))


@dataclass(frozen=True)
class LinearAsConvolution:
    """The weight of a linear layer, stored as that of a convolution of 1x1.

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
    """The number in a name that has one after `heads.class_embed.`."""
    return int(name.split(".")[2])
