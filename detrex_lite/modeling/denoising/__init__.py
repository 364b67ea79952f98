"""Denoising: in training, extra decoder queries are made from noisy ground truth, which they reconstruct.

In a detector, `self.denoising` is a `GroupDenoising` (DN-DETR), a `ContrastiveDenoising` (DINO) or None:

    denoising = None if self.denoising is None or targets is None else self.denoising(targets)  # a QueryBlock
    queries = Queries([denoising, matching])   # joins the blocks, and masks attention between them
    layers = decoder(queries, memory, heads)
    return queries.split(layers)               # "", "_0", ..., "_dn", "_dn_0", ...

With targets there are always denoising sets, because processes must compute the same sets. If the batch has no objects,
the sets have no queries, and their losses and the gradients of the label embedding are zero. `SetCriterion` needs no
setting for them.

With `GroupDenoising`, contents of matching queries also end in an indicator (`add_indicator`): DN-DETR's are the
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
