"""DN-DETR (Li et al., CVPR 2022, figure 4): DAB-DETR that in training is also asked to give back noised objects.

What differs from the published implementations: see `GroupDenoising`, and DAB-DETR's project.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detrex_lite.modeling import GroupDenoising, Predictions, Targets
from detrex_lite.projects.dab_detr.modeling import DABDETR, DabDetrTransformer
from detrex_lite.structures import ImageBatch


class DNDETR(DABDETR):
    """DAB-DETR with denoising queries before its own, whose contents are the embedded label "no object".

    Args:
        denoising: makes the denoising queries, and has the label embedding; None for DAB-DETR itself.
        backbone, in_feature, in_channels, position_embedding, transformer, embed_dim, num_classes, num_queries,
            anchor_centers, aux_loss: see `DABDETR`.
        criterion, postprocessor, pixel_mean, pixel_std: see `Detector`.
    """

    def __init__(
        self,
        *,
        denoising: GroupDenoising | None,
        backbone: nn.Module,
        in_feature: str,
        in_channels: int,
        position_embedding: nn.Module,
        transformer: DabDetrTransformer,
        embed_dim: int,
        num_classes: int,
        num_queries: int,
        criterion: nn.Module,
        postprocessor: Any,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        anchor_centers: str = "learned",
        aux_loss: bool = True,
    ):
        super().__init__(
            backbone=backbone,
            in_feature=in_feature,
            in_channels=in_channels,
            position_embedding=position_embedding,
            transformer=transformer,
            embed_dim=embed_dim,
            num_classes=num_classes,
            num_queries=num_queries,
            criterion=criterion,
            postprocessor=postprocessor,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            anchor_centers=anchor_centers,
            aux_loss=aux_loss,
        )
        self.denoising = denoising

    def learned_queries(self, batch: int) -> tuple[Tensor, Tensor]:
        """See `DABDETR.learned_queries`."""
        contents, anchors = super().learned_queries(batch)
        if self.denoising is not None:
            contents = self.denoising.matching_content(anchors.shape[1]).expand(batch, -1, -1)
        return contents, anchors

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> dict[str, Predictions]:
        """See `Detector.predict`; training adds what becomes of the denoising queries as "_dn", "_dn_0", .."""
        contents, anchors = self.learned_queries(len(images))
        noised = None if self.denoising is None else self.denoising(targets, num_queries=anchors.shape[1])
        if noised is None:
            return super().predict(images)
        logits, boxes = self.decode(
            images,
            torch.cat([noised.content, contents], dim=1),
            torch.cat([noised.boxes, anchors], dim=1),
            attn_mask=noised.attn_mask,
        )
        return noised.name_layers(logits, boxes, aux_loss=self.aux_loss)
