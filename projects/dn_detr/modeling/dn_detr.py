"""DN-DETR (Li et al., CVPR 2022, figure 4): DAB-DETR whose training also reconstructs objects from noise.

The project's README and `GroupDenoising` list the differences from the paper's repository and from detrex.
"""

from collections.abc import Mapping

from torch import Tensor

from detrex_lite.modeling import LayerOutput, Outputs, Queries, QueryBlock, Targets
from detrex_lite.modeling.single_level import LearnedAnchors, SingleLevelDetector
from detrex_lite.structures import ImageBatch


class DNDETR(SingleLevelDetector):
    """DAB-DETR with denoising queries; the content of matching queries is the embedding of the label "no object".

    Its parts; `SingleLevelDetector` documents them:

    - `backbone`, `position_embedding`, `transformer` and `heads`: those of DAB-DETR.
    - `queries`: `LearnedAnchors`, whose patterns, if any, are added to the label embedding. Denoising queries have no
      pattern.
    - `denoising`: `GroupDenoising`, which turns noised copies of the objects into queries and owns the label embedding;
      None for DAB-DETR itself.
    """

    queries: LearnedAnchors
    training_only = ()  # a row of the label embedding is the content of the matching queries

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> Outputs:
        """See `Detector.predict`; with targets, denoising adds "_dn", "_dn_0", and so on."""
        noised = None if self.denoising is None or targets is None else self.denoising(targets)
        queries, layers, losses = self.decode(images, noised, training=targets is not None)
        return Outputs(queries.split(layers, aux_loss=self.aux_loss), losses=losses)

    def decode(
        self, images: ImageBatch, noised: QueryBlock | None = None, *, training: bool = False
    ) -> tuple[Queries, list[LayerOutput], Mapping[str, Tensor]]:
        """See `Detector.decode`; returns the queries, the output of each decoder layer, and losses of the memory."""
        feature, positions = self.map_and_positions(images)
        memory = self.transformer.encode(feature, positions)
        no_object = None if self.denoising is None else self.denoising.matching_content()
        anchors = self.queries(images.tensor.shape[0], training=training, content=no_object)
        queries = Queries([noised, *anchors])
        layers = self.transformer.decoder(queries, memory, self.heads, training=training)
        return queries, layers, memory.losses
