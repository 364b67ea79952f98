"""DN-DETR (Li et al., CVPR 2022, figure 4): DAB-DETR that in training is also asked to give back noised objects.

What differs from the published implementations: see `GroupDenoising`, and DAB-DETR's project.
"""

from typing import Any

import torch
from torch import Tensor

from detrex_lite.arguments import inherits_arguments
from detrex_lite.modeling import GroupDenoising, Predictions, Targets
from detrex_lite.projects.dab_detr.modeling import DABDETR
from detrex_lite.structures import ImageBatch


@inherits_arguments
class DNDETR(DABDETR):
    """DAB-DETR with denoising queries before its own, whose contents are the embedded label "no object".

    Args:
        denoising: makes the denoising queries, and has the label embedding; None for DAB-DETR itself.
        anchor_centers: where anchors begin, see `AnchorBoxes`.
        transformer, embed_dim, num_classes, num_queries, num_patterns: see `DABDETR`.
        backbone, in_feature, in_channels, position_embedding, aux_loss: see `SingleLevelDetector`.
        criterion, postprocessor, pixel_mean, pixel_std: see `Detector`.

    Raises:
        ValueError: for patterns beside denoising, where all contents are the same.
    """

    def __init__(self, *, denoising: GroupDenoising | None, anchor_centers: str = "learned", **dab_detr: Any):
        super().__init__(anchor_centers=anchor_centers, **dab_detr)
        if denoising is not None and self.patterns is not None:
            raise ValueError(
                f"num_patterns={self.patterns.num_embeddings}: with denoising, the content of all queries is the label "
                "'no object'; num_patterns=0 or denoising=None"
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
        noised = None if self.denoising is None else self.denoising(targets)
        if noised is None:
            return super().predict(images)
        contents, anchors = self.learned_queries(len(images))
        logits, boxes = self.decode(
            images,
            torch.cat([noised.content, contents], dim=1),
            torch.cat([noised.boxes, anchors], dim=1),
            attn_mask=noised.attn_mask(anchors.shape[1]),
        )
        return noised.name_layers(logits, boxes, aux_loss=self.aux_loss)
