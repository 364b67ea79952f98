"""Anchor DETR (Wang et al., AAAI 2022, figure 3): backbone, positions, encoder, points, decoder, heads.

The project's README lists the differences from the paper's repository and from detrex. One difference applies to both:
the detections of an image do not depend on the other images of its batch (`Detector.extract_features`).
"""

from detrex_lite.modeling import LayerOutput, Predictions, Queries, Targets
from detrex_lite.modeling.single_level import SingleLevelDetector
from detrex_lite.structures import ImageBatch


class AnchorDETR(SingleLevelDetector):
    """Detection as set prediction with queries that are points; points and cells share one position embedding.

    Its parts; `SingleLevelDetector` documents them:

    - `backbone` and `position_embedding`: a feature map, and a `PointPositionEmbedding`, which embeds the positions of
      its cells and the points of the queries.
    - `transformer`: a `SingleLevelEncoder`, with attention along the rows and the columns of the map, and a
      `PointDecoder`, whose queries attend to each other and along rows and columns.
    - `queries`: `LearnedPoints`, each with several learned contents.
    - `heads`: a class head, and a box head whose references are the points; all layers share both.
    """

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> dict[str, Predictions]:
        """See `Detector.predict`."""
        queries, layers = self.decode(images, training=targets is not None)
        return queries.split(layers, aux_loss=self.aux_loss)

    def decode(self, images: ImageBatch, *, training: bool = False) -> tuple[Queries, list[LayerOutput]]:
        """See `Detector.decode`; returns the queries and the output of each decoder layer."""
        feature, positions = self.map_and_positions(images)
        memory = self.transformer.encode(feature, positions)
        positions_of_points = self.position_embedding.of_points
        points = self.queries(images.tensor.shape[0], training=training, positions=positions_of_points)
        queries = Queries(points)
        return queries, self.transformer.decoder(queries, memory, self.heads, training=training)
