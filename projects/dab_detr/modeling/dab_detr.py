"""DAB-DETR (Liu et al., ICLR 2022, figure 5): backbone, positions, encoder, anchors, decoder, heads.

What differs from the published implementations: an image's detections do not depend on the batch that it is in
(`Detector.extract_features`), and the anchors' centres are called "random", not frozen, as they are trained.
"""

from typing import Any

from torch import Tensor, nn

from detrex_lite.arguments import inherits_arguments
from detrex_lite.layers import MLP, Linear
from detrex_lite.modeling import (
    AnchorBoxes,
    Predictions,
    SingleLevelDetector,
    Targets,
    begin_at_reference,
    expect_few_objects,
    name_layers,
    pair_with_patterns,
    refine,
)
from detrex_lite.structures import ImageBatch

from .transformer import DabDetrTransformer


@inherits_arguments
class DABDETR(SingleLevelDetector):
    """Detection as set prediction with queries that are boxes.

    Args:
        transformer: encoder and decoder.
        embed_dim: C, of the transformer.
        num_classes: K.
        num_queries: Q anchors, more than an image will have objects.
        anchor_centers: where they begin, see `AnchorBoxes`.
        num_patterns: P learned contents, each of which is paired with each anchor; 0 for a single one, which is zero.
        backbone, in_feature, in_channels, position_embedding, aux_loss: see `SingleLevelDetector`.
        criterion, postprocessor, pixel_mean, pixel_std: see `Detector`.
    """

    def __init__(
        self,
        *,
        transformer: DabDetrTransformer,
        embed_dim: int,
        num_classes: int,
        num_queries: int,
        anchor_centers: str = "random",
        num_patterns: int = 0,
        **single_level: Any,
    ):
        super().__init__(embed_dim=embed_dim, num_classes=num_classes, **single_level)
        self.transformer = transformer
        self.anchor_box_embed = AnchorBoxes(num_queries, anchor_centers)
        self.patterns = nn.Embedding(num_patterns, embed_dim) if num_patterns else None
        self.class_embed = Linear(embed_dim, num_classes)
        self.bbox_embed = MLP(embed_dim, embed_dim, 4, num_layers=3)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Boxes begin where their anchors are, and objects are rare."""
        if self.patterns is not None:
            nn.init.xavier_uniform_(self.patterns.weight)
        expect_few_objects(self.class_embed)
        begin_at_reference(self.bbox_embed)

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
        """See `Detector.decode`; queries may be others than `learned_queries`.

        Args:
            images: normalised and padded.
            contents: (B, Q, C).
            anchors: (B, Q, 4) cxcywh in 0..1.
            attn_mask: bool, (Q, Q) or (B, Q, Q), True = not attended among queries.

        Returns:
            Logits (layers, B, Q, K) and boxes (layers, B, Q, 4) cxcywh in 0..1.
        """
        feature, pos = self.feature_and_positions(images)
        queries, references = self.transformer(
            feature, pos=pos, contents=contents, anchors=anchors, box_head=self.bbox_embed, attn_mask=attn_mask
        )
        return self.class_embed(queries), refine(self.bbox_embed(queries), references)
