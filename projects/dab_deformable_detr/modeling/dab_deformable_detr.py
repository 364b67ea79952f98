"""DAB-Deformable-DETR (DAB-DETR, Liu et al., ICLR 2022, appendix B, on Deformable DETR): queries that are boxes.

What differs from the paper's repository and from detrex is in the project's README. For both: an image's detections do
not depend on the batch that it is in (`Detector.extract_features`), and box heads run once per layer.
"""

from collections.abc import Mapping

from detrex_lite.modeling import LayerOutput, Memory, Predictions, Queries, QueryBlock, Targets
from detrex_lite.modeling.deformable import MultiScaleDetector
from detrex_lite.structures import ImageBatch


class DabDeformableDETR(MultiScaleDetector):
    """Deformable DETR with a box and a content for each query, which every layer refines; denoising is an option.

    Its parts, which `MultiScaleDetector` documents:

    - `backbone`, `neck`, `position_embedding` and the encoder: Deformable DETR's.
    - `queries`: `AnchorQueries`, learned boxes and contents, or with two stages the encoder's best proposals.
    - the decoder: `DeformableAnchorDecoder`, which makes positions of the boxes that a layer gets.
    - `heads`: each layer has its own, and refines the boxes of the one before.
    - `denoising`: None, or `GroupDenoising` for DN-Deformable-DETR (Li et al., CVPR 2022).
    """

    collaborates = True

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> Mapping[str, Predictions]:
        """See `Detector.predict`; with targets, denoising adds "_dn", "_dn_0", .., and two stages add "_enc"."""
        noised = None if self.denoising is None or targets is None else self.denoising(targets)
        queries, layers, proposals, memory = self.decode(images, noised, training=targets is not None)
        named = queries.split(layers, aux_loss=self.aux_loss)
        if proposals is not None:
            named["_enc"] = proposals
        return self.collaborate(named, memory, images, targets)

    def decode(
        self, images: ImageBatch, noised: QueryBlock | None = None, *, training: bool = False
    ) -> tuple[Queries, list[LayerOutput], Predictions | None, Memory]:
        """See `Detector.decode`: queries, what each layer says about them, trained proposals, and the memory."""
        memory = self.encode(images)
        anchors, proposals = self.queries(memory, self.heads, training=training)
        queries = Queries([noised, *anchors])
        layers = self.transformer.decoder(queries, memory, self.heads, training=training)
        return queries, layers, proposals, memory
