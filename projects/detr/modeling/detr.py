"""DETR (Carion et al., ECCV 2020, figure 2): backbone, positions, encoder, decoder, heads.

What differs from the paper's repository: an image's detections do not depend on the batch that it is in
(`Detector.extract_features`), and auxiliary outputs carry names instead of sitting in a list.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from detrex_lite.layers import MLP
from detrex_lite.modeling import Detector, Predictions, Targets, name_layers
from detrex_lite.structures import ImageBatch

from .transformer import DetrTransformer


class DETR(Detector):
    """Detection as set prediction with learned queries.

    Args:
        backbone: images (B, 3, H, W) to a dict of feature maps.
        in_feature: the feature map that the transformer reads.
        in_channels: its channels.
        position_embedding: padding mask (B, h, w) to positions (B, C, h, w).
        transformer: encoder and decoder.
        embed_dim: C, of the transformer.
        num_classes: K; the class head has one more output, "no object".
        num_queries: Q, more than an image will have objects.
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
        transformer: DetrTransformer,
        embed_dim: int,
        num_classes: int,
        num_queries: int,
        criterion: nn.Module,
        postprocessor: Any,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
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
        self.query_embed = nn.Embedding(num_queries, embed_dim)
        self.transformer = transformer
        self.class_embed = nn.Linear(embed_dim, num_classes + 1)
        self.bbox_embed = MLP(embed_dim, embed_dim, 4, num_layers=3)
        self.aux_loss = aux_loss

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """See `Detector.feature_maps`: one map (B, C, h, w)."""
        return [self.input_proj(self.backbone(images)[self.in_feature])]

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> dict[str, Predictions]:
        """See `Detector.predict`; DETR does not look at targets."""
        (feature,) = self.extract_features(images)
        hidden = self.transformer(
            feature.tensor,
            mask=feature.mask,
            query_embed=self.query_embed.weight,
            pos=self.position_embedding(feature.mask_or_zeros(), dtype=feature.tensor.dtype),
        )
        logits = self.class_embed(hidden)  # (layers, B, Q, K + 1)
        boxes = self.bbox_embed(hidden).sigmoid()  # (layers, B, Q, 4) cxcywh in 0..1
        return name_layers(logits, boxes, aux_loss=self.aux_loss)
