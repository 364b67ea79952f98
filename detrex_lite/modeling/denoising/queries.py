"""Denoising queries of a batch, and what becomes of the decoder's answers to them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..predictions import Predictions, name_layers
from ..targets import Targets
from .layout import Layout


class DenoisingQueries(NamedTuple):
    """What a decoder takes before its own Q queries.

    Attributes:
        content: (B, D, C), embedded labels; 0 in padding.
        boxes: (B, D, 4) cxcywh in 0..1, at least 0.001 from both ends; 0.5 in padding.
        group: (D,) the group of each query, from 0.
        padding: (B, D) bool, True = a query that nothing sees and that has no part in the loss; None where padding is
            like any query.
        targets: the objects that are asked for: the batch's, but for those beyond the cap.
        layout: which query is whose.
    """

    content: Tensor
    boxes: Tensor
    group: Tensor
    padding: Tensor | None
    targets: Targets
    layout: Layout

    def attn_mask(self, num_queries: int) -> Tensor:
        """What self-attention leaves out: queries of other groups, and for matching queries all that is denoised.

        Denoising queries do see the matching queries, as in the paper's repository.

        Args:
            num_queries: Q.

        Returns:
            (D + Q, D + Q) bool, True = not attended; (B, D + Q, D + Q) where there is `padding`.
        """
        group = F.pad(self.group, (0, num_queries), value=-1)
        mask = (group != group[:, None]) & (group >= 0)
        return mask if self.padding is None else mask | F.pad(self.padding, (0, num_queries))[:, None]

    def name_layers(self, logits: Tensor, boxes: Tensor, *, aux_loss: bool = True) -> dict[str, Predictions]:
        """Name stacked decoder outputs: those of matching queries "", "_0", .., of denoising queries "_dn", "_dn_0", ..

        Args:
            logits: (layers, B, D + Q, K).
            boxes: (layers, B, D + Q, 4) cxcywh in 0..1.
            aux_loss: whether the layers before the last are returned.
        """
        number = len(self.layout)
        named = name_layers(logits[:, :, number:], boxes[:, :, number:], aux_loss=aux_loss)
        logits, boxes, match = logits[:, :, :number], boxes[:, :, :number], self.layout.match()
        if self.padding is not None:
            # Losses are sums over the batch, so that what is no padding may as well belong to one image.
            logits, boxes = (
                torch.stack([self.layout.take(layer).flatten(0, 1)[None] for layer in x]) for x in (logits, boxes)
            )
            match = self.layout.match_of_taken()
        for suffix, one in name_layers(logits, boxes, aux_loss=aux_loss).items():
            named[f"_dn{suffix}"] = one._replace(targets=self.targets, match=match, repeats=self.layout.groups)
        return named
