"""DETR (Carion et al., ECCV 2020, figure 2): backbone, positions, encoder, learned queries, decoder, heads.

The project's README lists the differences from the paper's repository and from detrex. One difference applies to both:
the detections of an image do not depend on the other images of its batch (`Detector.extract_features`).
"""

from collections.abc import Mapping

from torch import Tensor

from detrex_lite.modeling import LayerOutput, Outputs, Queries, Targets
from detrex_lite.modeling.single_level import SingleLevelDetector
from detrex_lite.structures import ImageBatch


class DETR(SingleLevelDetector):
    """Detection as set prediction with learned queries.

    Its parts; `SingleLevelDetector` documents them:

    - `backbone` and `position_embedding`: one feature map, and an embedding of the positions of its cells.
    - `transformer`: a `SingleLevelEncoder`, with attention among all cells, and a `PositionalDecoder`, whose queries
      attend to each other and to the cells.
    - `queries`: `LearnedQueries`, learned position embeddings with contents of zero.
    - `heads`: a class head, whose last class is "no object", and a box head without references; all layers share both.
    - `mask_head`: None, or an `AttentionMaskHead`, which predicts masks from the last layer's queries (section 5).

    Conditional DETR has the same parts, with a `ConditionalDecoder`, and queries and heads that use reference points.
    """

    makes_masks = True

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> Outputs:
        """See `Detector.predict`."""
        queries, layers, losses = self.decode(images, training=targets is not None)
        return Outputs(queries.split(layers, aux_loss=self.aux_loss), losses=losses)

    def decode(
        self, images: ImageBatch, *, training: bool = False
    ) -> tuple[Queries, list[LayerOutput], Mapping[str, Tensor]]:
        """See `Detector.decode`; returns the queries, the output of each decoder layer, and losses of the memory."""
        feature, *pyramid = self.extract_features(images)
        memory = self.transformer.encode(feature, self.positions(feature))
        queries = Queries(self.queries(images.tensor.shape[0], training=training))
        layers = self.transformer.decoder(queries, memory, self.heads, training=training)
        return queries, self.with_masks(layers, memory, feature, pyramid), memory.losses
