"""DINO (Zhang et al., ICLR 2023, figure 2): backbone, encoder, query selection, denoising, decoder, heads.

What differs from the authors' code and from detrex is in the project's README. For both: an image's detections do not
depend on the batch that it is in (`Detector.extract_features`), and in a batch without objects the label embedding gets
gradients of zero rather than none.
"""

from collections.abc import Mapping

from detrex_lite.modeling import FINAL, LayerOutput, Memory, Predictions, Queries, QueryBlock, Targets
from detrex_lite.modeling.deformable import AnchorQueries, MultiScaleDetector
from detrex_lite.structures import ImageBatch

Passes = list[tuple[Queries, list[LayerOutput], Predictions | None]]


class DINO(MultiScaleDetector):
    """Queries are boxes that the encoder proposes, with learned contents; training also reconstructs noised objects.

    Boxes are cxcywh in 0..1 of each image without its padding; class logits go through a sigmoid, each by itself.

    Its parts, which `MultiScaleDetector` documents, in the order of figure 2:

    - `backbone`, `neck` and `position_embedding`: feature maps of several levels, and where their cells are.
    - `transformer.encoder`: a `DeformableEncoder`, where each cell reads a few points of all levels around its place.
    - `queries`: `AnchorQueries` with mixed selection (section 3.4). The boxes of the encoded cells whose best class has
      the highest score, without their gradients, and one learned content for each rank among them.
    - `denoising`: `ContrastiveDenoising` (section 3.3), in groups: for each object a query near it, which is to
      reconstruct it, and a more strongly noised one, to be classified as background. A group sees itself and the
      matching queries, which see no denoising queries. None switches it off.
    - `transformer.decoder`: a `DeformableAnchorDecoder`, where queries attend to each other and read a few points in
      and around their boxes.
    - `heads`: each layer has its own, as in detrex, or all layers share one pair (`share_heads`), as in the authors'
      code; the encoder has its own. Each layer refines the boxes of the layer before, which it gets without gradients.
      For the loss it refines them with gradients, so that the loss of a layer's boxes also trains the refinement of the
      layer before ("look forward twice", section 3.5).

    `with_box_refine` and `as_two_stage` are True; without two stages boxes and contents are learned. A `branch`, and
    `collaboration`, are no parts of DINO, but of detectors that are made of it.
    """

    runs_branch = True
    collaborates = True

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> Mapping[str, Predictions]:
        """The named sets of predictions of a batch.

        Args:
            images: normalised and padded.
            targets: the objects, where losses are wanted; None for detections.

        Returns:
            "" for the last layer's matching queries, of which detections are made, and "_0", "_1", .. for the layers
            before. With targets also "_dn", "_dn_0", .. for denoising queries, whose match is known, and "_enc" for the
            selected cells, which are matched with the objects like the others; and with a branch the same sets of its
            queries, whose names end with its suffix.
        """
        noised = None if self.denoising is None or targets is None else self.denoising(targets)
        named: dict[str, Predictions] = {}
        suffixes = [FINAL] if self.branch is None else [FINAL, self.branch.suffix]
        passes, memory = self.decode(images, noised, training=targets is not None)
        for suffix, (queries, layers, proposals) in zip(suffixes, passes, strict=False):  # detections have one pass
            named |= queries.split(layers, aux_loss=self.aux_loss)
            if proposals is not None:
                named["_enc" + suffix] = proposals
        return self.collaborate(named, memory, images, targets)

    def decode(
        self, images: ImageBatch, noised: QueryBlock | None = None, *, training: bool = False
    ) -> tuple[Passes, Memory]:
        """From images to predictions: everything that computes with weights, but for the denoising queries.

        Args:
            images: normalised and padded.
            noised: denoising queries, or None; they join those that are selected here.
            training: whether to create the queries and predictions that exist in training only.

        Returns:
            The queries of the decoder, each layer's predictions, and the encoder's predictions for the selected cells
            (None unless training); in training then the same of the branch, if there is one. And what the encoder gave.
        """
        memory = self.encode(images)  # backbone, neck, position embedding and encoder
        branch = self.branch if training else None
        if branch is None:
            selected, proposals = self.queries(memory, self.heads, training=training)
        else:  # which needs the proposals, too
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
