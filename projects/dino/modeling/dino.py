"""DINO (Zhang et al., ICLR 2023, figure 2): backbone, encoder, query selection, denoising, decoder, heads.

The project's README lists the differences from the authors' code and from detrex. Two differences apply to both: the
detections of an image do not depend on the other images of its batch (`Detector.extract_features`), and in a batch
without objects the label embedding gets gradients of zero instead of None.
"""

from collections.abc import Mapping

from detrex_lite.modeling import FINAL, LayerOutput, Memory, Predictions, Queries, QueryBlock, Targets
from detrex_lite.modeling.deformable import AnchorQueries, MultiScaleDetector
from detrex_lite.structures import ImageBatch

Passes = list[tuple[Queries, list[LayerOutput], Predictions | None]]


class DINO(MultiScaleDetector):
    """Queries start from boxes that the encoder proposes; training also reconstructs objects from noised copies.

    Boxes are cxcywh in 0..1 of each image without its padding; each class logit goes through a sigmoid.

    Its parts, in the order of figure 2; `MultiScaleDetector` documents them:

    - `backbone`, `neck` and `position_embedding`: feature maps of several levels, and embeddings of the positions of
      their cells.
    - `transformer.encoder`: a `DeformableEncoder`, where each cell samples a few points of all levels around itself.
    - `queries`: `AnchorQueries` with mixed selection (section 3.4). References are the boxes of the encoded cells with
      the highest class scores, detached; contents are learned, one for each rank in this selection.
    - `denoising`: `ContrastiveDenoising` (section 3.3), in groups. A group has two queries for each object: a positive
      query, with little noise, has to reconstruct the object, and a negative query, with more noise, has to be
      classified as background. A group attends to itself and to the matching queries; matching queries do not attend to
      denoising queries. None switches denoising off.
    - `transformer.decoder`: a `DeformableAnchorDecoder`, where queries attend to each other and sample a few points in
      and around their boxes.
    - `heads`: a pair of heads for each layer, as in detrex, or one pair for all layers (`share_heads`), as in the
      authors' code; the encoder has a separate pair. Each layer refines the detached boxes of the previous layer. The
      loss uses a second refinement, of the boxes with their gradients, so that the loss of a layer's boxes also trains
      the previous layer ("look forward twice", section 3.5).

    `with_box_refine` and `as_two_stage` are True; without two stages, boxes and contents are learned. `branch` and
    `collaboration` are not parts of DINO, but of detectors that extend it.
    """

    runs_branch = True
    collaborates = True

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> Mapping[str, Predictions]:
        """The named sets of predictions of a batch.

        Args:
            images: normalised and padded.
            targets: the objects, to compute losses; None for detections.

        Returns:
            "" for the last layer's matching queries, which become the detections, and "_0", "_1", ... for the layers
            before it. With targets, also "_dn", "_dn_0", ... for denoising queries, whose match is known, and "_enc"
            for the selected cells, which are matched with the objects. With targets and a branch, also the sets of the
            branch's queries, whose names end with the suffix of the branch.
        """
        noised = None if self.denoising is None or targets is None else self.denoising(targets)
        named: dict[str, Predictions] = {}
        suffixes = [FINAL] if self.branch is None else [FINAL, self.branch.suffix]
        passes, memory = self.decode(images, noised, training=targets is not None)
        for suffix, (queries, layers, proposals) in zip(suffixes, passes, strict=False):  # evaluation has one pass
            named |= queries.split(layers, aux_loss=self.aux_loss)
            if proposals is not None:
                named["_enc" + suffix] = proposals
        return self.collaborate(named, memory, images, targets)

    def decode(
        self, images: ImageBatch, noised: QueryBlock | None = None, *, training: bool = False
    ) -> tuple[Passes, Memory]:
        """Everything from images to predictions that computes with weights, except for the denoising queries.

        Args:
            images: normalised and padded.
            noised: denoising queries, or None; they are concatenated with the queries that are selected here.
            training: whether to create the queries and predictions that exist in training only.

        Returns:
            The passes of the decoder and the encoded memory. Each pass has the queries, each layer's predictions, and
            the encoder's predictions for the selected cells (None unless training). There is one pass, and in training
            another one for the branch, if the detector has a branch.
        """
        memory = self.encode(images)  # backbone, neck, position embedding and encoder
        branch = self.branch if training else None
        if branch is None:
            selected, proposals = self.queries(memory, self.heads, training=training)
        else:  # the branch needs the proposals, too
            assert isinstance(self.queries, AnchorQueries)
            proposed = self.queries.proposals(memory)
            selected, proposals = self.queries.select(proposed, memory, self.heads, training=training)
        queries, decoder = Queries([noised, *selected]), self.transformer.decoder
        passes: Passes = [(queries, decoder(queries, memory, self.heads, training=training), proposals)]
        if branch is not None:
            selected, proposals = branch(proposed, memory, self.queries)
            queries = Queries(selected)
            passes.append((queries, branch.decode(queries, memory, decoder, self.heads), proposals))
        return passes, memory
