"""DAB-Deformable-DETR (DAB-DETR, Liu et al., ICLR 2022, appendix B, on Deformable DETR): queries that are boxes.

What differs from the paper's repository is what differs in `DeformableDETR`.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detrex_lite.modeling import AnchorBoxes, Denoising, Predictions, Targets, name_layers
from detrex_lite.projects.deformable_detr.modeling import DeformableDETR
from detrex_lite.structures import ImageBatch, inverse_sigmoid

from .transformer import DabDeformableDetrTransformer

MAX_LOGIT = 3.0  # of the boxes before training


class DabDeformableDETR(DeformableDETR):
    """Deformable DETR with a box and a content for each query, which every layer refines; denoising is an option.

    Args:
        backbone, neck, position_embedding, embed_dim, num_classes, num_queries, criterion, postprocessor, pixel_mean,
            pixel_std, aux_loss, with_box_refine, as_two_stage: see `DeformableDETR`.
        transformer: encoder, and decoder of boxes.
        denoising: makes denoising queries in training; None for none.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        position_embedding: nn.Module,
        transformer: DabDeformableDetrTransformer,
        embed_dim: int,
        num_classes: int,
        num_queries: int,
        criterion: nn.Module,
        postprocessor: Any,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        aux_loss: bool = True,
        with_box_refine: bool = True,
        as_two_stage: bool = False,
        denoising: Denoising | None = None,
    ):
        super().__init__(
            backbone=backbone,
            neck=neck,
            position_embedding=position_embedding,
            transformer=transformer,
            embed_dim=embed_dim,
            num_classes=num_classes,
            num_queries=num_queries,
            criterion=criterion,
            postprocessor=postprocessor,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            aux_loss=aux_loss,
            with_box_refine=with_box_refine,
            as_two_stage=as_two_stage,
        )
        self.denoising = denoising
        for layer in self.neck.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def add_learned_queries(self, num_queries: int, embed_dim: int) -> None:
        """Boxes all over the image, and contents that begin as zeros."""
        self.tgt_embed = nn.Embedding(num_queries, embed_dim)
        self.refpoint_embed = AnchorBoxes(num_queries)
        nn.init.zeros_(self.tgt_embed.weight)
        with torch.no_grad():
            anchors = torch.rand_like(self.refpoint_embed.weight)
            self.refpoint_embed.weight.copy_(inverse_sigmoid(anchors).clamp(-MAX_LOGIT, MAX_LOGIT))

    def learned_queries(self) -> tuple[Tensor, Tensor]:
        """Contents (Q, C) and boxes (Q, 4) cxcywh in 0..1."""
        return self.tgt_embed.weight, self.refpoint_embed()

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> dict[str, Predictions]:
        """See `DeformableDETR.predict`; denoising adds "_dn", "_dn_0", .. in training."""
        decoded = self.decode(images, None if self.denoising is None else functools.partial(self.denoising, targets))
        name = name_layers if decoded.denoising is None else decoded.denoising.name_layers
        named = name(self.classify(decoded.queries), decoded.boxes, aux_loss=self.aux_loss)
        return named | self.name_proposals(decoded.proposals, targets)
