"""DDQ-DETR (Zhang et al., CVPR 2023, figure 4): DINO with distinct queries, and a dense branch for training.

What differs from the authors' code is in the project's README.
"""

from typing import Any

from torch import Tensor, nn

from detrex_lite.modeling import (
    DetectionHeads,
    LayerOutput,
    Memory,
    Predictions,
    Queries,
    QueryBlock,
    Targets,
)
from detrex_lite.modeling.deformable import (
    AnchorQueries,
    MultiScaleDetector,
    ProposalTokens,
    StartingQueries,
    best_proposals,
    taken_padding,
)
from detrex_lite.structures import ImageBatch

DENSE = "_dense"
Passes = list[tuple[Queries, list[LayerOutput], Predictions | None]]


class DenseBranch(nn.Module):
    """Queries for training, more of them and not distinct, with heads of their own (section 3.3).

    Args:
        num_queries: of the distinct queries.
        ratio: how many dense queries there are for each of them.
        heads: of the branch, with heads for the encoder; queries go through the norm of the distinct queries' heads.
    """

    def __init__(self, *, num_queries: int, heads: DetectionHeads, ratio: float = 1.5):
        super().__init__()
        self.num_queries = int(ratio * num_queries)
        self.heads = heads

    def forward(self, proposed: ProposalTokens, memory: Memory, source: AnchorQueries) -> StartingQueries:
        """The branch's queries, which are the best proposals, and these.

        Args:
            proposed: the encoder's tokens as proposals are made of them.
            memory: the encoder's result.
            source: of the distinct queries, which projects contents.
        """
        chosen, best = best_proposals(proposed, self.num_queries, memory, self.heads)
        content: Tensor = source.projected_contents(memory.tokens, best)
        block = QueryBlock(DENSE, content, chosen.boxes.detach(), padding=taken_padding(best, memory.require_levels()))
        return StartingQueries([block], Predictions.of(chosen))


class DDQDETR(MultiScaleDetector):
    """DINO whose queries do not overlap, from the encoder's proposals to the detections.

    Its parts, which `MultiScaleDetector` documents, are DINO's but for

    - `queries`: an `AnchorQueries` with the selection `DistinctProposals`, and contents that are projected from tokens.
    - `transformer.decoder`: a `DistinctQueryDecoder`.
    - `dense`: the dense branch. Its queries and the distinct ones do not see each other, so it goes through the same
      decoder layers in a pass of its own.

    Args:
        dense: None for no dense branch.
        parts: the arguments of `MultiScaleDetector`.

    Raises:
        ValueError: when contents are not projected from tokens but there is a dense branch, which has no others.
    """

    training_only = (*MultiScaleDetector.training_only, "dense.")
    queries: AnchorQueries

    def __init__(self, *, dense: DenseBranch | None = None, **parts: Any):
        super().__init__(**parts)
        if dense is not None:
            if self.queries.content_projection is None:
                raise ValueError("a dense branch needs queries.project_contents=True: its contents are projected, too")
            dense.heads.norm = self.heads.norm
        self.dense = dense

    def convert_to_deploy(self) -> None:
        """See `MultiScaleDetector.convert_to_deploy`; the dense branch goes, too."""
        super().convert_to_deploy()
        self.dense = None

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> dict[str, Predictions]:
        """See `Detector.predict`; with targets there are also "_dn", "_enc", "_dense", .. and "_enc_dense"."""
        noised = None if self.denoising is None or targets is None else self.denoising(targets)
        named: dict[str, Predictions] = {}
        for queries, layers, proposals in self.decode(images, noised, training=targets is not None):
            named |= queries.split(layers, aux_loss=self.aux_loss)
            if proposals is not None:
                named["_enc" + queries.blocks[-1].suffix] = proposals
        return named

    def decode(self, images: ImageBatch, noised: QueryBlock | None = None, *, training: bool = False) -> Passes:
        """See `Detector.decode`: queries, layers and proposals, in training also those of the dense branch's pass."""
        memory = self.encode(images)
        proposed, decoder = self.queries.proposals(memory), self.transformer.decoder
        selected, proposals = self.queries.select(proposed, memory, self.heads, training=training)
        queries = Queries([noised, *selected])
        passes: Passes = [(queries, decoder(queries, memory, self.heads, training=training), proposals)]
        if training and self.dense is not None:
            selected, proposals = self.dense(proposed, memory, self.queries)
            queries = Queries(selected)
            passes.append((queries, decoder(queries, memory, self.dense.heads), proposals))
        return passes
