"""Anchor DETR (Wang et al., AAAI 2022, figure 3): backbone, positions, encoder, points, decoder, heads.

What differs from the paper's repository and from detrex is in the project's README. For both: an image's detections do
not depend on the batch that it is in (`Detector.extract_features`).
"""

from detrex_lite.modeling import LayerOutput, Predictions, Queries, Targets
from detrex_lite.modeling.single_level import SingleLevelDetector
from detrex_lite.structures import ImageBatch


class AnchorDETR(SingleLevelDetector):
    """Detection as set prediction with queries that are points, whose positions are made as those of cells.

    Its parts, which `SingleLevelDetector` documents:

    - `backbone` and `position_embedding`: one feature map, and where its cells are; a `PointPositionEmbedding`, which
      embeds the queries' points as well.
    - `transformer`: `SingleLevelEncoder`, attention along the rows and the columns of the map; `PointDecoder`, whose
      queries attend to each other and along rows and columns.
    - `queries`: `LearnedPoints`, each with several learned contents.
    - `heads`: classes, and boxes around the points; the same for all layers.
    """

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> dict[str, Predictions]:
        """See `Detector.predict`."""
        queries, layers = self.decode(images, training=targets is not None)
        return queries.split(layers, aux_loss=self.aux_loss)

    def decode(self, images: ImageBatch, *, training: bool = False) -> tuple[Queries, list[LayerOutput]]:
        """See `Detector.decode`: the queries, and what each decoder layer says about them."""
        feature, positions = self.map_and_positions(images)
        memory = self.transformer.encode(feature, positions)
        positions_of_points = self.position_embedding.of_points
        points = self.queries(images.tensor.shape[0], training=training, positions=positions_of_points)
        queries = Queries(points)
        return queries, self.transformer.decoder(queries, memory, self.heads, training=training)
