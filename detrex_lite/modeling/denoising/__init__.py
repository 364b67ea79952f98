"""Denoising: in training, extra decoder queries are made of the ground truth with noise, and asked to give it back.

What a detector does with it, `self.denoising` being a `GroupDenoising` (DN-DETR), a `ContrastiveDenoising` (DINO) or
None (Q matching queries, D denoising queries, which come first):

    denoising = None if self.denoising is None else self.denoising(targets, num_queries=Q)   # None in evaluation
    if denoising is not None:
        content = torch.cat([denoising.content, content], dim=1)       # (B, D + Q, C)
        reference = torch.cat([denoising.boxes, reference], dim=1)     # (B, D + Q, 4) cxcywh in 0..1
        self_attn_mask = denoising.attn_mask                           # bool, True = not attended
    ...                                                                # decode to logits, boxes: (layers, B, D + Q, .)
    if denoising is None:
        return name_layers(logits, boxes, aux_loss=self.aux_loss)
    return denoising.name_layers(logits, boxes, aux_loss=self.aux_loss)   # "", "_0", .., "_dn", "_dn_0", ..

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
