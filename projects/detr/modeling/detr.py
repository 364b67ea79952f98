"""DETR (Carion et al., ECCV 2020, figure 2): backbone, positions, encoder, decoder, heads.

What differs from the paper's repository: an image's detections do not depend on the batch that it is in
(`Detector.extract_features`), and auxiliary outputs carry names instead of sitting in a list.
"""

from typing import Any

from torch import Tensor, nn

from detrex_lite.arguments import inherits_arguments
from detrex_lite.layers import MLP, Linear
from detrex_lite.modeling import Predictions, SingleLevelDetector, Targets, name_layers
from detrex_lite.structures import ImageBatch

from .transformer import DetrTransformer


@inherits_arguments
class DETR(SingleLevelDetector):
    """Detection as set prediction with learned queries.

    Args:
        transformer: encoder and decoder.
        embed_dim: C, of the transformer.
        num_classes: K; the class head has one more output, "no object".
        num_queries: Q, more than an image will have objects.
        backbone, in_feature, in_channels, position_embedding, aux_loss: see `SingleLevelDetector`.
        criterion, postprocessor, pixel_mean, pixel_std: see `Detector`.
    """

    def __init__(
        self,
        *,
        transformer: DetrTransformer,
        embed_dim: int,
        num_classes: int,
        num_queries: int,
        **single_level: Any,
    ):
        super().__init__(embed_dim=embed_dim, num_classes=num_classes, **single_level)
        self.query_embed = nn.Embedding(num_queries, embed_dim)
        self.transformer = transformer
        self.class_embed = Linear(embed_dim, num_classes + 1)
        self.bbox_embed = MLP(embed_dim, embed_dim, 4, num_layers=3)

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> dict[str, Predictions]:
        """See `Detector.predict`; DETR does not look at targets."""
        logits, boxes = self.decode(images)
        return name_layers(logits, boxes, aux_loss=self.aux_loss)

    def decode(self, images: ImageBatch) -> tuple[Tensor, Tensor]:
        """See `Detector.decode`: logits (layers, B, Q, K + 1) and boxes (layers, B, Q, 4) cxcywh in 0..1."""
        feature, pos = self.feature_and_positions(images)
        hidden = self.transformer(feature, query_embed=self.query_embed.weight, pos=pos)
        return self.class_embed(hidden), self.bbox_embed(hidden).sigmoid()
