"""Deformable DETR (Zhu et al., ICLR 2021, figure 1): backbone, neck, positions, encoder, queries, decoder, heads.

The project's README lists the differences from the paper's repository and from detrex. Two differences apply to both:
the detections of an image do not depend on the other images of its batch (`Detector.extract_features`), and box heads
run once per layer, both for the loss and for the next layer.
"""

from collections.abc import Mapping

from detrex_lite.modeling import LayerOutput, Memory, Predictions, Queries, Targets
from detrex_lite.modeling.deformable import MultiScaleDetector
from detrex_lite.structures import ImageBatch


class DeformableDETR(MultiScaleDetector):
    """Detection as set prediction with deformable attention to several feature levels.

    Its parts; `MultiScaleDetector` documents them:

    - `backbone`, `neck` and `position_embedding`: feature maps of several levels, and embeddings of the positions of
      their cells.
    - `transformer`: a `DeformableEncoder`, where each cell samples a few points of all levels around itself, and a
      `DeformableDecoder`, where queries attend to each other and sample a few points around their references.
    - `queries`: `DeformableQueries`, learned, or with two stages computed from the encoder's best proposals.
    - `heads`: predict boxes relative to references; with refinement, each layer's boxes are the references of the next.
    """

    collaborates = True

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> Mapping[str, Predictions]:
        """See `Detector.predict`; with targets, two stages add the encoder's predictions as "_enc"."""
        queries, layers, proposals, memory = self.decode(images, training=targets is not None)
        named = queries.split(layers, aux_loss=self.aux_loss)
        if proposals is not None:
            named["_enc"] = proposals
        return self.collaborate(named, memory, images, targets)

    def decode(
        self, images: ImageBatch, *, training: bool = False
    ) -> tuple[Queries, list[LayerOutput], Predictions | None, Memory]:
        """See `Detector.decode`; returns queries, the output of each layer, trained proposals, and the memory."""
        memory = self.encode(images)
        blocks, proposals = self.queries(memory, self.heads, training=training)
        queries = Queries(blocks)
        layers = self.transformer.decoder(queries, memory, self.heads, training=training)
        return queries, layers, proposals, memory
