"""DN-DETR (Li et al., CVPR 2022, figure 4): DAB-DETR that in training also reconstructs objects from noise.

What differs from the paper's repository and from detrex is in the project's README, and in `GroupDenoising`.
"""

from collections.abc import Mapping

from torch import Tensor

from detrex_lite.modeling import LayerOutput, Outputs, Queries, QueryBlock, Targets
from detrex_lite.modeling.single_level import LearnedAnchors, SingleLevelDetector
from detrex_lite.structures import ImageBatch


class DNDETR(SingleLevelDetector):
    """DAB-DETR with denoising queries, whose matching queries hold the embedded label "no object".

    Its parts, which `SingleLevelDetector` documents:

    - `backbone`, `position_embedding`, `transformer` and `heads`: DAB-DETR's.
    - `queries`: `LearnedAnchors`; their patterns, if any, are added to the label. Denoising queries have no pattern.
    - `denoising`: `GroupDenoising`, which makes noised copies of the objects into queries and has the label embedding;
      None for DAB-DETR itself.
    """

    queries: LearnedAnchors
    training_only = ()  # the contents of the matching queries are a row of the label embedding

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> Outputs:
        """See `Detector.predict`; with targets there are the predictions of denoising queries, "_dn", "_dn_0", .."""
        noised = None if self.denoising is None or targets is None else self.denoising(targets)
        queries, layers, losses = self.decode(images, noised, training=targets is not None)
        return Outputs(queries.split(layers, aux_loss=self.aux_loss), losses=losses)

    def decode(
        self, images: ImageBatch, noised: QueryBlock | None = None, *, training: bool = False
    ) -> tuple[Queries, list[LayerOutput], Mapping[str, Tensor]]:
        """See `Detector.decode`: the queries, what each decoder layer says about them, and losses of the memory."""
        feature, positions = self.map_and_positions(images)
        memory = self.transformer.encode(feature, positions)
        no_object = None if self.denoising is None else self.denoising.matching_content()
        anchors = self.queries(images.tensor.shape[0], training=training, content=no_object)
        queries = Queries([noised, *anchors])
        layers = self.transformer.decoder(queries, memory, self.heads, training=training)
        return queries, layers, memory.losses
