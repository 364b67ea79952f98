"""DINO (Zhang et al., ICLR 2023, figure 2): backbone, encoder, query selection, denoising, decoder, heads.

What differs from the paper's repository is what differs in `DeformableDETR`, and that a batch without objects trains
the label embedding with zeros instead of skipping it.
"""

from detrex_lite.modeling import LayerOutput, Predictions, Queries, QueryBlock, Targets
from detrex_lite.modeling.deformable import MultiScaleDetector
from detrex_lite.structures import ImageBatch


class DINO(MultiScaleDetector):
    """Queries are boxes that the encoder proposes, with learned contents; training also reconstructs noised objects.

    Its parts, which `MultiScaleDetector` documents, in the order of figure 2:

    - `backbone`, `neck` and `position_embedding`: feature maps of several levels, and where their cells are.
    - `transformer.encoder`: a `DeformableEncoder`, where each cell reads a few points of all levels around its place.
    - `queries`: `AnchorQueries` with mixed selection (section 3.4): the boxes of the best encoded cells, and contents
      that are learned for each rank.
    - `denoising`: `ContrastiveDenoising` (section 3.3): for each object a query near it, which is to find it, and one
      farther off, which is to find nothing. Matching queries do not see them.
    - `transformer.decoder`: a `DeformableAnchorDecoder`, where queries attend to each other and read a few points in
      and around their boxes.
    - `heads`: each layer refines the boxes of the one before, and its loss trains that one too ("look forward twice",
      section 3.5).
    """

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> dict[str, Predictions]:
        """The named sets of predictions of a batch.

        Args:
            images: normalised and padded.
            targets: the objects, where losses are wanted; None for detections.

        Returns:
            "" for the last layer's matching queries, of which detections are made. With targets also "_0", "_1", .. for
            the layers before, "_dn", "_dn_0", .. for denoising queries, and "_enc" for the encoder's proposals.
        """
        noised = None if self.denoising is None or targets is None else self.denoising(targets)
        seen = None if noised is None else noised.for_decoder()
        queries, layers, proposals = self.decode(images, seen, training=targets is not None)
        named = queries.split(layers, aux_loss=self.aux_loss, blocks=[noised])
        return named if proposals is None else named | {"_enc": proposals}

    def decode(
        self, images: ImageBatch, noised: QueryBlock | None = None, *, training: bool = False
    ) -> tuple[Queries, list[LayerOutput], Predictions | None]:
        """From images to predictions: everything that computes with weights, but for the denoising queries.

        Args:
            images: normalised and padded.
            noised: denoising queries, which join those that are selected here.
            training: whether there are queries and predictions that exist in training only.

        Returns:
            The queries of the decoder, what each of its layers says about them, and what the encoder says about the
            selected cells (None unless training).
        """
        maps, positions = self.maps_and_positions(images)  # backbone and neck
        memory = self.transformer.encode(maps, positions)
        selected, proposals = self.queries(memory, self.heads, training=training)
        queries = Queries([noised, *selected])
        layers = self.transformer.decoder(queries, memory, self.heads)
        return queries, layers, proposals
