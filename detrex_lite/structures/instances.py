"""The objects of one image as parallel fields, with the interface of detectron2's Instances."""

from typing import Any

import torch
from torch import Tensor

from ..errors import did_you_mean


class Instances:
    """Fields of equal length that describe the objects of one image.

    Args:
        image_size: (height, width) of the frame that the fields' coordinates refer to, in pixels.
        fields: initial fields, e.g. `gt_boxes=Boxes(...)`, `gt_classes=tensor`.

    Raises:
        ValueError: when a field's length differs from that of the others.
        AttributeError: when a field that does not exist is read, or `image_size` is assigned to.
    """

    def __init__(self, image_size: tuple[int, int], **fields: Any):
        self._image_size = tuple(int(side) for side in image_size)
        self._fields: dict[str, Any] = {}
        for name, value in fields.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._image_size  # type: ignore[return-value]

    def set(self, name: str, value: Any) -> None:
        """Set the field `name`; its length must be that of the fields already there."""
        for other, present in self._fields.items():
            if other != name and len(present) != len(value):
                raise ValueError(f"field {name!r} has length {len(value)}, but {other!r} has {len(present)}")
        self._fields[name] = value

    def get(self, name: str) -> Any:
        """The field `name`."""
        return self._fields[name]

    def has(self, name: str) -> bool:
        return name in self._fields

    def remove(self, name: str) -> None:
        del self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """All fields by name."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """A copy whose fields went through their own `to`."""
        moved = {k: v.to(*args, **kwargs) if hasattr(v, "to") else v for k, v in self._fields.items()}
        return Instances(self.image_size, **moved)

    @staticmethod
    def cat(instances: list["Instances"]) -> "Instances":
        """One Instances with the objects of all.

        Raises:
            ValueError: when there are none, or they differ in image size or in the names of their fields.
        """
        if not instances:
            raise ValueError("cannot concatenate an empty list of Instances")
        first = instances[0]
        for one in instances[1:]:
            if one.image_size != first.image_size or one.get_fields().keys() != first.get_fields().keys():
                raise ValueError(
                    f"cannot concatenate Instances of image size {first.image_size} with fields "
                    f"{sorted(first.get_fields())} and of {one.image_size} with {sorted(one.get_fields())}"
                )
        joined: dict[str, Any] = {}
        for name, value in first.get_fields().items():
            values = [one.get(name) for one in instances]
            if isinstance(value, Tensor):
                joined[name] = torch.cat(values)
            elif hasattr(type(value), "cat"):
                joined[name] = type(value).cat(values)
            else:
                joined[name] = [item for each in values for item in each]
        return Instances(first.image_size, **joined)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        elif name == "image_size":
            raise AttributeError("image_size cannot be changed; make a new Instances for another image size")
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._fields:
            raise AttributeError(
                f"Instances has no field {name!r}{did_you_mean(name, self.__dict__.get('_fields', {}))}"
            )
        return self._fields[name]

    def __getitem__(self, item: int | slice | Tensor) -> "Instances":
        """The objects that `item` selects; an int gives an Instances of one."""
        if isinstance(item, int):
            if not -len(self) <= item < len(self):
                raise IndexError(f"index {item} is out of range for {len(self)} instances")
            item = slice(item, None if item == -1 else item + 1)
        picked: dict[str, Any] = {}
        for name, value in self._fields.items():
            if isinstance(value, list) and isinstance(item, Tensor):
                positions = item.nonzero().flatten() if item.dtype == torch.bool else item
                picked[name] = [value[i] for i in positions.tolist()]
            else:
                picked[name] = value[item]
        return Instances(self.image_size, **picked)

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        return 0

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        return f"Instances(num_instances={len(self)}, image_size={self.image_size}, fields=[{fields}])"
