"""Relation-DETR (Hou et al., ECCV 2024, figure 4): DINO with relations between boxes, and a hybrid branch.

What differs from the paper's repository: an image's detections do not depend on the batch that it is in, boxes are
clipped to the image, and losses of the hybrid branch are called "_one2many".
"""

import functools

from torch import nn

from detrex_lite.modeling import (
    FINAL,
    DetectionHeads,
    LayerOutput,
    Memory,
    Predictions,
    Queries,
    QueryBlock,
    QueryLayout,
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
from detrex_lite.modeling.query_layout import ONE_TO_MANY
from detrex_lite.structures import ImageBatch


class HybridBranch(nn.Module):
    """Queries for training that find each object several times, made of proposals by heads of their own (section 3.3).

    Args:
        num_queries: of the branch.
        num_classes: K.
        embed_dim: C.
        repeats: how often each object is to be found.
    """

    def __init__(self, *, num_queries: int, num_classes: int, embed_dim: int, repeats: int = 6):
        super().__init__()
        self.content = nn.Embedding(num_queries, embed_dim)
        self.heads = DetectionHeads(embed_dim=embed_dim, num_classes=num_classes, num_layers=0, for_encoder=True)
        self.targets = functools.partial(Targets.repeated, times=repeats)
        nn.init.xavier_uniform_(self.content.weight)

    def forward(self, proposed: ProposalTokens, memory: Memory) -> StartingQueries:
        """The branch's queries and the proposals that they are made of; arguments as in `AnchorQueries.select`."""
        chosen, best = best_proposals(proposed, len(self.content.weight), memory, self.heads)
        content = self.content.weight[: best.shape[1]].expand(best.shape[0], -1, -1)
        block = QueryBlock(
            ONE_TO_MANY,
            content,
            chosen.boxes.detach(),
            targets=self.targets,
            padding=taken_padding(best, memory.require_levels()),
        )
        return StartingQueries([block], Predictions.of(chosen, targets=self.targets))


class RelationQueries(AnchorQueries):
    """DINO's queries, and a hybrid branch that proposes by the same encoded tokens.

    Args:
        layout: of DINO's queries.
        num_queries_one2many: of the hybrid branch; 0 for none.
        num_classes: K.
        embed_dim: C.
        one2many_repeats: how often the branch is to find each object.
    """

    def __init__(
        self,
        *,
        layout: QueryLayout,
        num_queries_one2many: int,
        num_classes: int,
        embed_dim: int,
        one2many_repeats: int = 6,
    ):
        super().__init__(layout=layout, embed_dim=embed_dim, as_two_stage=True, mixed_selection=True)
        self.num_queries_one2many = num_queries_one2many
        self.hybrid: HybridBranch | None = None
        if num_queries_one2many:
            self.hybrid = HybridBranch(
                num_queries=num_queries_one2many,
                num_classes=num_classes,
                embed_dim=embed_dim,
                repeats=one2many_repeats,
            )


class RelationDETR(MultiScaleDetector):
    """DINO whose decoder layers know how the boxes of the two layers before lie to each other.

    Its parts, which `MultiScaleDetector` documents, are DINO's but for

    - `transformer.encoder`: a `MemoryFusion` joins the results of all layers.
    - `transformer.decoder`: a `PositionRelation` biases self-attention from the second layer on (section 3.2).
    - `queries`: `RelationQueries`, with a hybrid branch for training.
    """

    queries: RelationQueries

    def predict(self, images: ImageBatch, targets: Targets | None = None) -> dict[str, Predictions]:
        """See `Detector.predict`; with targets there are also "_dn", "_enc", "_one2many" and "_enc_one2many"."""
        noised = None if self.denoising is None or targets is None else self.denoising(targets)
        named: dict[str, Predictions] = {}
        for queries, layers, proposals in self.decode(images, noised, training=targets is not None):
            named |= queries.split(layers, aux_loss=self.aux_loss)
            if proposals is not None:
                branch = "" if queries.blocks[-1].suffix == FINAL else ONE_TO_MANY
                named[f"_enc{branch}"] = proposals
        return named

    def decode(
        self, images: ImageBatch, noised: QueryBlock | None = None, *, training: bool = False
    ) -> list[tuple[Queries, list[LayerOutput], Predictions | None]]:
        """See `Detector.decode`: queries, layers and proposals, in training also those of the hybrid branch's pass."""
        memory = self.encode(images)
        proposed = self.queries.proposals(memory)
        selected, proposals = self.queries.select(proposed, memory, self.heads, training=training)
        queries = Queries([noised, *selected])
        passes = [(queries, self.transformer.decoder(queries, memory, self.heads, training=training), proposals)]
        if training and self.queries.hybrid is not None:
            selected, proposals = self.queries.hybrid(proposed, memory)
            queries = Queries(selected)
            layers = self.transformer.decoder(queries, memory, self.heads, use_relation=False)
            passes.append((queries, layers, proposals))
        return passes
