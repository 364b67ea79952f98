"""Denoising: in training, extra decoder queries are made of the ground truth with noise, to be reconstructed.

What a detector does with it, `self.denoising` being a `GroupDenoising` (DN-DETR), a `ContrastiveDenoising` (DINO) or
None:

    denoising = None if self.denoising is None or targets is None else self.denoising(targets)  # a QueryBlock
    queries = Queries([denoising, matching])   # joins the blocks, and masks who must not see whom
    layers = decoder(queries, memory, heads)
    return queries.split(layers)               # "", "_0", .., "_dn", "_dn_0", ..

With targets there always are denoising sets, of no queries (zero losses, zero gradients of the label embedding) where
the batch has no objects: processes must agree on what they compute. `SetCriterion` needs no setting for them.

With `GroupDenoising`, contents of matching queries end in an indicator, too (`add_indicator`): DN-DETR's are the
embedded label "no object", `GroupDenoising.matching_content`; DN-Deformable-DETR learns its own.
"""

from .denoising import ContrastiveDenoising, Denoising, GroupDenoising, PositiveDenoising, add_indicator
from .layout import Layout, number_objects
from .noise import replace_labels, shift_and_scale, shift_corners

__all__ = [
    "ContrastiveDenoising",
    "Denoising",
    "GroupDenoising",
    "Layout",
    "PositiveDenoising",
    "add_indicator",
    "number_objects",
    "replace_labels",
    "shift_and_scale",
    "shift_corners",
]
