"""Heads that encode boxes by shifts and factors in units of the reference's sides, as R-CNN does.

Legend: B batch, N tokens, C channels.
"""

import torch
from torch import Tensor

from .heads import DetectionHeads


class ReparamHeads(DetectionHeads):
    """Boxes relative to references without a sigmoid (LW-DETR, Chen et al., 2024, "bbox_reparam" in its repository).

    With the head's output d and a reference (cx, cy, w, h), the box is (cx + w * d_x, cy + h * d_y, w * exp(d_w),
    h * exp(d_h)) (R-CNN, Girshick et al., CVPR 2014, appendix C). The effect of d scales with the reference, and boxes
    may extend beyond the image.

    The arguments are those of `DetectionHeads`; `eps` is unused, since references are not converted to logits.
    References must be boxes, because points have no sides.
    """

    def boxes(self, offsets: Tensor, reference: Tensor | None) -> Tensor:
        """See `DetectionHeads.boxes`.

        Raises:
            ValueError: when references are not boxes.
        """
        if reference is None or reference.shape[-1] != 4:
            fault = "there are none" if reference is None else "they are points"
            raise ValueError(f"ReparamHeads needs references that are boxes, but {fault}: use queries that are boxes")
        offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
        centre, sides = reference.to(offsets.dtype).split(2, dim=-1)
        shift, factor = offsets.split(2, dim=-1)
        return torch.cat([centre + shift * sides, factor.exp() * sides], dim=-1)

    def proposed_boxes(self, offsets: Tensor, anchors: Tensor, proposes: Tensor) -> Tensor:
        """See `DetectionHeads.proposed_boxes`; tokens without a proposal have the box (0, 0, 0, 0), as published."""
        return self.boxes(offsets, anchors * proposes[..., None])
