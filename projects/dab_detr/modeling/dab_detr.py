"""DAB-DETR (Liu et al., ICLR 2022, figure 5): backbone, positions, encoder, anchors, decoder, heads.

What differs from the published implementations: an image's detections do not depend on the batch that it is in
(`Detector.extract_features`), and the anchors' centres are called "random", not frozen, as they are trained.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from detrex_lite.layers import MLP
from detrex_lite.modeling import (
    AnchorBoxes,
    Detector,
    Predictions,
    Targets,
    expect_few_objects,
    name_layers,
    pair_with_patterns,
    refine,
)
from detrex_lite.structures import ImageBatch

from .transformer import DabDetrTransformer


class DABDETR(Detector):
    """Detection as set prediction with queries that are boxes.

    Args:
        backbone: images (B, 3, H, W) to a dict of feature maps.
        in_feature: the feature map that the transformer reads.
        in_channels: its channels.
        position_embedding: padding mask (B, h, w) to positions (B, C, h, w).
        transformer: encoder and decoder.
        embed_dim: C, of the transformer.
        num_classes: K.
        num_queries: Q anchors, more than an image will have objects.
        anchor_centers: where they begin, see `AnchorBoxes`.
        num_patterns: P learned contents, each of which is paired with each anchor; 0 for a single one, which is zero.
        aux_loss: supervise every decoder layer.
        criterion, postprocessor, pixel_mean, pixel_std: see `Detector`.
    """

    def __init__(
        self,
        *,
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
        anchor_centers: str = "random",
        num_patterns: int = 0,
        aux_loss: bool = True,
    ):
        super().__init__(
            num_classes=num_classes,
            criterion=criterion,
            postprocessor=postprocessor,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
        )
        self.backbone = backbone
        self.in_feature = in_feature
        self.input_proj = nn.Conv2d(in_channels, embed_dim, kernel_size=1)
        self.position_embedding = position_embedding
        self.transformer = transformer
        self.embed_dim = embed_dim
        self.anchor_box_embed = AnchorBoxes(num_queries, anchor_centers)
        self.patterns = nn.Embedding(num_patterns, embed_dim) if num_patterns else None
        self.class_embed = nn.Linear(embed_dim, num_classes)
        self.bbox_embed = MLP(embed_dim, embed_dim, 4, num_layers=3)
        self.aux_loss = aux_loss
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Boxes begin where their anchors are, and objects are rare."""
        if self.patterns is not None:
            nn.init.xavier_uniform_(self.patterns.weight)
        expect_few_objects(self.class_embed)
        nn.init.zeros_(self.bbox_embed.layers[-1].weight)
        nn.init.zeros_(self.bbox_embed.layers[-1].bias)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """See `Detector.feature_maps`: one map (B, C, h, w)."""
        return [self.input_proj(self.backbone(images)[self.in_feature])]

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> dict[str, Predictions]:
        """See `Detector.predict`; DAB-DETR does not look at targets."""
        contents, anchors = self.learned_queries(len(images))
        logits, boxes = self.decode(images, contents, anchors)
        return name_layers(logits, boxes, aux_loss=self.aux_loss)

    def learned_queries(self, batch: int) -> tuple[Tensor, Tensor]:
        """What the decoder begins with: contents (B, Q, C) and anchors (B, Q, 4) cxcywh in 0..1."""
        anchors = self.anchor_box_embed()
        if self.patterns is None:
            contents = anchors.new_zeros(len(anchors), self.embed_dim)
        else:
            contents, anchors = pair_with_patterns(self.patterns.weight, anchors)
        return contents.expand(batch, -1, -1), anchors.expand(batch, -1, -1)

    def decode(
        self, images: ImageBatch, contents: Tensor, anchors: Tensor, *, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """From images and queries, whichever they are, to predictions.

        Args:
            images: normalised and padded.
            contents: (B, Q, C).
            anchors: (B, Q, 4) cxcywh in 0..1.
            attn_mask: bool, (Q, Q) or (B, Q, Q), True = not attended among queries.

        Returns:
            Logits (layers, B, Q, K) and boxes (layers, B, Q, 4) cxcywh in 0..1.
        """
        (feature,) = self.extract_features(images)
        queries, references = self.transformer(
            feature,
            pos=self.position_embedding(feature.mask_or_zeros(), dtype=feature.tensor.dtype),
            contents=contents,
            anchors=anchors,
            box_head=self.bbox_embed,
            attn_mask=attn_mask,
        )
        return self.class_embed(queries), refine(self.bbox_embed(queries), references)
