"""DAB-Deformable-DETR (DAB-DETR, Liu et al., ICLR 2022, appendix B, on Deformable DETR): queries that are boxes.

What differs from the paper's repository is what differs in `DeformableDETR`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from detrex_lite.arguments import inherits_arguments
from detrex_lite.modeling import AnchorBoxes, Denoising, Predictions, Targets, name_layers
from detrex_lite.projects.deformable_detr.modeling import DeformableDETR
from detrex_lite.structures import ImageBatch, inverse_sigmoid

MAX_LOGIT = 3.0  # of the boxes before training


@inherits_arguments
class DabDeformableDETR(DeformableDETR):
    """Deformable DETR with a box and a content for each query, which every layer refines; denoising is an option.

    Args:
        with_box_refine: each layer has heads of its own and refines the boxes of the one before.
        denoising: makes denoising queries in training; None for none.
        transformer: encoder and decoder, a `DabDeformableDetrTransformer`.
        backbone, neck, position_embedding, embed_dim, num_classes, num_queries, aux_loss, as_two_stage: see
            `DeformableDETR`.
        criterion, postprocessor, pixel_mean, pixel_std: see `Detector`.
    """

    def __init__(self, *, with_box_refine: bool = True, denoising: Denoising | None = None, **deformable_detr: Any):
        super().__init__(with_box_refine=with_box_refine, **deformable_detr)
        self.denoising = denoising

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
        noised = None if self.denoising is None else self.denoising(targets)
        logits, boxes, proposals = self.decode(images, noised)
        name = name_layers if noised is None else noised.name_layers
        return name(logits, boxes, aux_loss=self.aux_loss) | self.name_proposals(proposals, targets)
