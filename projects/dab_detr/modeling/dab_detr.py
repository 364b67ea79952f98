"""DAB-DETR (Liu et al., ICLR 2022, figure 5): backbone, positions, encoder, anchors, decoder, heads.

What differs from the paper's repository and from detrex is in the project's README. For both: an image's detections do
not depend on the batch that it is in (`Detector.extract_features`).
"""

from collections.abc import Mapping

from torch import Tensor

from detrex_lite.modeling import LayerOutput, Outputs, Queries, Targets
from detrex_lite.modeling.single_level import SingleLevelDetector
from detrex_lite.structures import ImageBatch


class DABDETR(SingleLevelDetector):
    """Detection as set prediction with queries that are boxes, which every layer refines.

    Its parts, which `SingleLevelDetector` documents:

    - `backbone` and `position_embedding`: one feature map, and where its cells are.
    - `transformer`: `SingleLevelEncoder`, where each cell scales its position by what it holds; `AnchorDecoder`, which
      makes positions of boxes and attends around them as wide and high as they are.
    - `queries`: `LearnedAnchors`, boxes with contents of zero, or with learned patterns.
    - `heads`: refine the boxes, and look forward twice; the same for all layers.
    """

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> Outputs:
        """See `Detector.predict`."""
        queries, layers, losses = self.decode(images, training=targets is not None)
        return Outputs(queries.split(layers, aux_loss=self.aux_loss), losses=losses)

    def decode(
        self, images: ImageBatch, *, training: bool = False
    ) -> tuple[Queries, list[LayerOutput], Mapping[str, Tensor]]:
        """See `Detector.decode`: the queries, what each decoder layer says about them, and losses of the memory."""
        feature, positions = self.map_and_positions(images)
        memory = self.transformer.encode(feature, positions)
        anchors = Queries(self.queries(images.tensor.shape[0], training=training))
        layers = self.transformer.decoder(anchors, memory, self.heads, training=training)
        return anchors, layers, memory.losses
