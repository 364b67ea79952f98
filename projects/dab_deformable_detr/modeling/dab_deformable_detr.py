"""DAB-Deformable-DETR (DAB-DETR, Liu et al., ICLR 2022, appendix B, on Deformable DETR): queries that are boxes.

The project's README lists the differences from the paper's repository and from detrex. Two differences apply to both:
the detections of an image do not depend on the other images of its batch (`Detector.extract_features`), and box heads
run once per layer.
"""

from collections.abc import Mapping

from detrex_lite.modeling import LayerOutput, Memory, Predictions, Queries, QueryBlock, Targets
from detrex_lite.modeling.deformable import MultiScaleDetector
from detrex_lite.structures import ImageBatch


class DabDeformableDETR(MultiScaleDetector):
    """Deformable DETR whose queries have a box, which every layer refines, and a content; denoising is optional.

    Its parts; `MultiScaleDetector` documents them:

    - `backbone`, `neck`, `position_embedding` and the encoder: those of Deformable DETR.
    - `queries`: `AnchorQueries`, learned boxes and contents, or with two stages the encoder's best proposals.
    - the decoder: a `DeformableAnchorDecoder`, which computes position embeddings from the boxes that enter a layer.
    - `heads`: a pair of heads for each layer, which refines the boxes of the previous layer.
    - `denoising`: None, or `GroupDenoising` for DN-Deformable-DETR (Li et al., CVPR 2022).
    """

    collaborates = True

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> Mapping[str, Predictions]:
        """See `Detector.predict`; with targets, denoising adds "_dn", "_dn_0", ..., and two stages add "_enc"."""
        noised = None if self.denoising is None or targets is None else self.denoising(targets)
        queries, layers, proposals, memory = self.decode(images, noised, training=targets is not None)
        named = queries.split(layers, aux_loss=self.aux_loss)
        if proposals is not None:
            named["_enc"] = proposals
        return self.collaborate(named, memory, images, targets)

    def decode(
        self, images: ImageBatch, noised: QueryBlock | None = None, *, training: bool = False
    ) -> tuple[Queries, list[LayerOutput], Predictions | None, Memory]:
        """See `Detector.decode`; returns queries, the output of each layer, trained proposals, and the memory."""
        memory = self.encode(images)
        anchors, proposals = self.queries(memory, self.heads, training=training)
        queries = Queries([noised, *anchors])
        layers = self.transformer.decoder(queries, memory, self.heads, training=training)
        return queries, layers, proposals, memory
