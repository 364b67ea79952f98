"""What detectors share whose transformer reads one feature map, as DETR's does."""

from typing import Any

from torch import Tensor, nn

from ..arguments import inherits_arguments
from ..structures import ImageBatch
from .detector import Detector


@inherits_arguments
class SingleLevelDetector(Detector):
    """Takes one map of the backbone, projects it to the transformer's channels, and has its positions.

    Args:
        backbone: images (B, 3, H, W) to a dict of feature maps.
        in_feature: the feature map that the transformer reads.
        in_channels: its channels.
        embed_dim: C, of the transformer.
        position_embedding: padding mask (B, h, w) to positions (B, C, h, w).
        aux_loss: supervise every decoder layer.
        num_classes, criterion, postprocessor, pixel_mean, pixel_std: see `Detector`.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        in_feature: str,
        in_channels: int,
        embed_dim: int,
        position_embedding: nn.Module,
        aux_loss: bool = True,
        **detector: Any,
    ):
        super().__init__(**detector)
        self.backbone = backbone
        self.in_feature = in_feature
        self.input_proj = nn.Conv2d(in_channels, embed_dim, kernel_size=1)
        self.position_embedding = position_embedding
        self.embed_dim = embed_dim
        self.aux_loss = aux_loss

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """See `Detector.feature_maps`: one map (B, C, h, w)."""
        return [self.input_proj(self.backbone(images)[self.in_feature])]

    def feature_and_positions(self, images: ImageBatch) -> tuple[ImageBatch, Tensor]:
        """The padded map (B, C, h, w), and its positions, (B, C, h, w) or (1, C, h, w) where images share them."""
        (feature,) = self.extract_features(images)
        return feature, self.position_embedding(feature.mask_or_zeros(), dtype=feature.tensor.dtype)
