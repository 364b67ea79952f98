"""Deformable DETR (Zhu et al., ICLR 2021, figure 1): backbone, neck, positions, encoder, decoder, heads.

What differs from the paper's repository: an image's detections do not depend on the batch that it is in
(`Detector.extract_features`), and box heads run once per layer, for the loss and for the next layer.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detrex_lite.arguments import inherits_arguments
from detrex_lite.layers import MLP, Linear
from detrex_lite.modeling import (
    DenoisingQueries,
    Detector,
    Predictions,
    Targets,
    begin_at_reference,
    expect_few_objects,
    name_layers,
)
from detrex_lite.structures import ImageBatch

from .transformer import DeformableDetrTransformer


@inherits_arguments
class DeformableDETR(Detector):
    """Detection as set prediction with deformable attention to several feature levels.

    Args:
        backbone: images (B, 3, H, W) to a dict of feature maps.
        neck: that dict to L maps (B, C, h, w), finest first.
        position_embedding: padding mask (B, h, w) to positions (B, C, h, w).
        transformer: encoder and decoder.
        embed_dim: C, of the transformer.
        num_classes: K.
        num_queries: Q, more than an image will have objects.
        aux_loss: supervise every decoder layer.
        with_box_refine: each layer has heads of its own and refines the boxes of the one before.
        as_two_stage: queries are the encoder's best proposals; needs `with_box_refine`.
        criterion, postprocessor, pixel_mean, pixel_std: see `Detector`.

    Raises:
        ValueError: for two stages without refinement.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        neck: nn.Module,
        position_embedding: nn.Module,
        transformer: DeformableDetrTransformer,
        embed_dim: int,
        num_classes: int,
        num_queries: int,
        aux_loss: bool = True,
        with_box_refine: bool = False,
        as_two_stage: bool = False,
        **detector: Any,
    ):
        super().__init__(num_classes=num_classes, **detector)
        if as_two_stage and not with_box_refine:
            raise ValueError("as_two_stage=True needs with_box_refine=True: proposals are boxes that layers refine")
        self.backbone = backbone
        self.neck = neck
        self.position_embedding = position_embedding
        self.transformer = transformer
        self.as_two_stage = as_two_stage
        if not as_two_stage:
            self.add_learned_queries(num_queries, embed_dim)
        num_heads = transformer.decoder.num_layers + as_two_stage
        class_head, box_head = Linear(embed_dim, num_classes), MLP(embed_dim, embed_dim, 4, num_layers=3)
        self.class_embed = _heads(class_head, num_heads, shared=not with_box_refine)
        self.bbox_embed = _heads(box_head, num_heads, shared=not with_box_refine)
        self.aux_loss = aux_loss
        self._reset_heads(with_box_refine, as_two_stage)

    def _reset_heads(self, with_box_refine: bool, as_two_stage: bool) -> None:
        """Boxes begin where their references are, small ones where a reference has no size."""
        for head in self.class_embed:
            expect_few_objects(head)
        for head in self.bbox_embed:
            begin_at_reference(head)
        if not as_two_stage:
            nn.init.constant_(self.bbox_embed[0].layers[-1].bias[2:], -2.0)

    def feature_maps(self, images: Tensor) -> Sequence[Tensor]:
        """See `Detector.feature_maps`: L maps (B, C, h, w)."""
        return self.neck(self.backbone(images))

    def add_learned_queries(self, num_queries: int, embed_dim: int) -> None:
        """Make the parameters that `learned_queries` returns."""
        self.query_embedding = nn.Embedding(num_queries, 2 * embed_dim)

    def learned_queries(self) -> tuple[Tensor, Tensor]:
        """Contents (Q, C) and positions (Q, C) of the decoder's queries, with one stage."""
        position, content = self.query_embedding.weight.chunk(2, dim=-1)
        return content, position

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> dict[str, Predictions]:
        """See `Detector.predict`; two stages add the encoder's predictions as "_enc" in training."""
        logits, boxes, proposals = self.decode(images)
        return name_layers(logits, boxes, aux_loss=self.aux_loss) | self.name_proposals(proposals, targets)

    def decode(
        self, images: ImageBatch, denoising: DenoisingQueries | None = None
    ) -> tuple[Tensor, Tensor, Predictions | None]:
        """See `Detector.decode`.

        Args:
            images: normalised and padded.
            denoising: queries before the detector's own.

        Returns:
            Logits (layers, B, Q, K), boxes (layers, B, Q, 4) cxcywh in 0..1, and with two stages the encoder's
            predictions.
        """
        maps = self.extract_features(images)
        decoded = self.transformer(
            maps,
            [self.position_embedding(one.mask_or_zeros(), dtype=one.tensor.dtype) for one in maps],
            learned=None if self.as_two_stage else self.learned_queries(),
            class_heads=self.class_embed,
            box_heads=self.bbox_embed,
            denoising=denoising,
        )
        logits = torch.stack([head(one) for head, one in zip(self.class_embed, decoded.queries, strict=False)])
        return logits, decoded.boxes, decoded.proposals

    def name_proposals(self, proposals: Predictions | None, targets: Targets | None) -> dict[str, Predictions]:
        """The encoder's predictions under their name, in training with two stages."""
        if targets is None or proposals is None:
            return {}
        its = targets.class_agnostic() if self.transformer.class_agnostic_proposals else None
        return {"_enc": proposals._replace(targets=its)}


def _heads(head: nn.Module, number: int, *, shared: bool) -> nn.ModuleList:
    """`number` heads: one for all layers, or copies that differ from the first training step on."""
    return nn.ModuleList(head if shared else copy.deepcopy(head) for _ in range(number))
