"""The objects of one image as parallel fields, with the interface of detectron2's Instances."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import did_you_mean
from ..results import DetectionResult, ImageInfo, foreign_hint
from .masks import run_lengths


class Instances(DetectionResult):
    """Fields of equal length that describe the objects of one image.

    The results of predictors have the fields `pred_boxes`, `scores` and `pred_classes`, and `info`; see
    `DetectionResult` for `to_dict`, `to_numpy`, `to_pandas` and `to_supervision`.

    Args:
        image_size: (height, width) of the frame that the fields' coordinates refer to, in pixels.
        fields: initial fields, e.g. `gt_boxes=Boxes(...)`, `gt_classes=tensor`.

    Raises:
        ValueError: when a field's length differs from that of the others.
        AttributeError: when a field that does not exist is read, or `image_size` is assigned to.
    """

    def __init__(self, image_size: tuple[int, int], **fields: Any):
        self._image_size = tuple(int(side) for side in image_size)
        self._info = ImageInfo()
        self._fields: dict[str, Any] = {}
        for name, value in fields.items():
            self.set(name, value)

    @property
    def info(self) -> ImageInfo:
        """Information about the image in addition to its objects; `described` changes it."""
        return self._info

    def described(self, **info: Any) -> "Instances":
        """Return the same objects with changed fields of `ImageInfo`."""
        return self._with(self._fields, self._info._replace(**info))

    def _with(self, fields: dict[str, Any], info: ImageInfo) -> "Instances":
        result = Instances(self.image_size, **fields)
        result._info = info
        return result

    def to_numpy(self) -> dict[str, np.ndarray]:
        """See `DetectionResult.to_numpy`."""
        missing = [name for name in ("pred_boxes", "scores", "pred_classes") if name not in self._fields]
        if missing:
            listed = ", ".join(self._fields) or "none"
            raise ValueError(f"these Instances are not detections: no field {missing[0]!r}; their fields: {listed}")
        arrays = {
            "boxes": self.pred_boxes.tensor.detach().cpu().float().numpy(),
            "scores": self.scores.detach().cpu().float().numpy(),
            "classes": self.pred_classes.detach().cpu().long().numpy(),
        }
        if "pred_masks" in self._fields:
            arrays["masks"] = self.pred_masks.detach().cpu().bool().numpy()
        return arrays

    def _segmentations(self) -> list[dict[str, Any]] | None:
        return run_lengths(self.pred_masks) if "pred_masks" in self._fields else None

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._image_size  # type: ignore[return-value]

    def set(self, name: str, value: Any) -> None:
        """Set the field `name`; its length must be that of the existing fields."""
        for field, field_value in self._fields.items():
            if field != name and len(field_value) != len(value):
                raise ValueError(f"field {name!r} has length {len(value)}, but {field!r} has {len(field_value)}")
        self._fields[name] = value

    def get(self, name: str) -> Any:
        """Return the field `name`."""
        return self._fields[name]

    def has(self, name: str) -> bool:
        return name in self._fields

    def remove(self, name: str) -> None:
        del self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """Return all fields by name."""
        return self._fields

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """Return a copy after calling `to` on each field that has this method."""
        moved = {k: v.to(*args, **kwargs) if hasattr(v, "to") else v for k, v in self._fields.items()}
        return self._with(moved, self._info)

    @staticmethod
    def cat(instances: list["Instances"]) -> "Instances":
        """Concatenate the objects of several Instances.

        Raises:
            ValueError: for an empty list, or Instances with different image sizes or fields.
        """
        if not instances:
            raise ValueError("cannot concatenate an empty list of Instances")
        first = instances[0]
        for item in instances[1:]:
            if item.image_size != first.image_size or item.get_fields().keys() != first.get_fields().keys():
                raise ValueError(
                    f"cannot concatenate Instances of image size {first.image_size} with fields "
                    f"{sorted(first.get_fields())} and of {item.image_size} with {sorted(item.get_fields())}"
                )
        joined: dict[str, Any] = {}
        for name, value in first.get_fields().items():
            values = [item.get(name) for item in instances]
            if isinstance(value, Tensor):
                joined[name] = torch.cat(values)
            elif hasattr(type(value), "cat"):
                joined[name] = type(value).cat(values)
            else:
                joined[name] = [element for sequence in values for element in sequence]
        return first._with(joined, first._info)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        elif name == "image_size":
            raise AttributeError("image_size cannot be changed; make a new Instances for another image size")
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._fields:
            fields = self.__dict__.get("_fields", {})
            raise AttributeError(f"Instances has no field {name!r}{foreign_hint(name) or did_you_mean(name, fields)}")
        return self._fields[name]

    def __getitem__(self, item: int | slice | Tensor) -> "Instances":
        """Return the objects selected by `item`; an int returns an Instances of one object."""
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
        return self._with(picked, self._info)

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        return 0

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        return f"Instances(num_instances={len(self)}, image_size={self.image_size}, fields=[{fields}])"

    def __str__(self) -> str:
        is_detections = {"pred_boxes", "scores", "pred_classes"} <= self._fields.keys()
        return self._text() if is_detections else repr(self)
