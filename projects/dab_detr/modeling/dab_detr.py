"""DAB-DETR (Liu et al., ICLR 2022, figure 5): backbone, positions, encoder, anchors, decoder, heads.

The project's README lists the differences from the paper's repository and from detrex. One difference applies to both:
the detections of an image do not depend on the other images of its batch (`Detector.extract_features`).
"""

from collections.abc import Mapping

from torch import Tensor

from detrex_lite.modeling import LayerOutput, Outputs, Queries, Targets
from detrex_lite.modeling.single_level import SingleLevelDetector
from detrex_lite.structures import ImageBatch


class DABDETR(SingleLevelDetector):
    """Detection as set prediction with queries that are boxes, which every layer refines.

    Its parts; `SingleLevelDetector` documents them:

    - `backbone` and `position_embedding`: one feature map, and an embedding of the positions of its cells.
    - `transformer`: a `SingleLevelEncoder`, where each cell scales its position embedding by its hidden state, and an
      `AnchorDecoder`, which computes position embeddings from the boxes and modulates attention by their sizes.
    - `queries`: `LearnedAnchors`, boxes with contents of zero, or with learned patterns.
    - `heads`: refine the boxes, and look forward twice; all layers share them.
    """

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> Outputs:
        """See `Detector.predict`."""
        queries, layers, losses = self.decode(images, training=targets is not None)
        return Outputs(queries.split(layers, aux_loss=self.aux_loss), losses=losses)

    def decode(
        self, images: ImageBatch, *, training: bool = False
    ) -> tuple[Queries, list[LayerOutput], Mapping[str, Tensor]]:
        """See `Detector.decode`; returns the queries, the output of each decoder layer, and losses of the memory."""
        feature, positions = self.map_and_positions(images)
        memory = self.transformer.encode(feature, positions)
        anchors = Queries(self.queries(images.tensor.shape[0], training=training))
        layers = self.transformer.decoder(anchors, memory, self.heads, training=training)
        return anchors, layers, memory.losses
