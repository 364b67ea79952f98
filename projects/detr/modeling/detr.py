"""DETR (Carion et al., ECCV 2020, figure 2): backbone, positions, encoder, learned queries, decoder, heads.

What differs from the paper's repository and from detrex is in the project's README. For both: an image's detections do
not depend on the batch that it is in (`Detector.extract_features`).
"""

from collections.abc import Mapping

from torch import Tensor

from detrex_lite.modeling import LayerOutput, Outputs, Queries, Targets
from detrex_lite.modeling.single_level import SingleLevelDetector
from detrex_lite.structures import ImageBatch


class DETR(SingleLevelDetector):
    """Detection as set prediction with learned queries.

    Its parts, which `SingleLevelDetector` documents:

    - `backbone` and `position_embedding`: one feature map, and where its cells are.
    - `transformer`: `SingleLevelEncoder`, attention among all cells; `PositionalDecoder`, whose queries attend to each
      other and to the cells.
    - `queries`: `LearnedQueries`, positions with contents of zero.
    - `heads`: classes, with "no object" as the last one, and boxes without references, the same for all layers.
    - `mask_head`: None, or `AttentionMaskHead` for masks of the last layer's queries (section 5).

    Conditional DETR is these with a `ConditionalDecoder`, and queries and heads that refer to points.
    """

    makes_masks = True

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> Outputs:
        """See `Detector.predict`."""
        queries, layers, losses = self.decode(images, training=targets is not None)
        return Outputs(queries.split(layers, aux_loss=self.aux_loss), losses=losses)

    def decode(
        self, images: ImageBatch, *, training: bool = False
    ) -> tuple[Queries, list[LayerOutput], Mapping[str, Tensor]]:
        """See `Detector.decode`: the queries, what each decoder layer says about them, and losses of the memory."""
        feature, *pyramid = self.extract_features(images)
        memory = self.transformer.encode(feature, self.positions(feature))
        queries = Queries(self.queries(images.tensor.shape[0], training=training))
        layers = self.transformer.decoder(queries, memory, self.heads, training=training)
        return queries, self.with_masks(layers, memory, feature, pyramid), memory.losses
