"""Denoising: in training, extra decoder queries are made of the ground truth with noise, and asked to give it back.

What a detector does with it, `self.denoising` being a `GroupDenoising` (DN-DETR), a `ContrastiveDenoising` (DINO) or
None (Q matching queries, D denoising queries, which come first):

    noised = None if self.denoising is None else self.denoising(targets)   # None in evaluation
    if noised is not None:
        content = torch.cat([noised.content, content], dim=1)          # (B, D + Q, C)
        reference = torch.cat([noised.boxes, reference], dim=1)        # (B, D + Q, 4) cxcywh in 0..1
        self_attn_mask = noised.attn_mask(Q)                           # bool, True = not attended
    ...                                                                # decode to logits, boxes: (layers, B, D + Q, .)
    name = name_layers if noised is None else noised.name_layers
    return name(logits, boxes, aux_loss=self.aux_loss)                 # "", "_0", .., "_dn", "_dn_0", ..

In training there always are denoising sets, of no queries (D = 0, zero losses, zero gradients of the label embedding)
where the batch has no objects: processes must agree on what they compute. `SetCriterion` needs no setting for them.

With `GroupDenoising`, contents of matching queries end in an indicator, too (`add_indicator`): DN-DETR's are the
embedded label "no object", `GroupDenoising.matching_content`; DN-Deformable-DETR learns its own.
"""

from .denoising import ContrastiveDenoising, Denoising, GroupDenoising, add_indicator
from .layout import Layout, number_objects
from .noise import replace_labels, shift_and_scale, shift_corners
from .queries import DenoisingQueries

__all__ = [
    "ContrastiveDenoising",
    "Denoising",
    "DenoisingQueries",
    "GroupDenoising",
    "Layout",
    "add_indicator",
    "number_objects",
    "replace_labels",
    "shift_and_scale",
    "shift_corners",
]
