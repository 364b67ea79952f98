"""Initial queries of a detector with several feature levels: learned, or the encoder's best proposals.

Legend: B batch, N tokens of all levels, Q queries, C channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...layers import get_sine_pos_embed
from ...structures import inverse_sigmoid
from ..anchors import AnchorBoxes
from ..decoder import Memory
from ..denoising import add_indicator
from ..heads import DetectionHeads
from ..masks import MASK_EMBEDDING, boxes_of_masks, features_of
from ..predictions import Predictions
from ..queries import QueryBlock
from ..query_layout import QueryLayout
from ..targets import Targets
from .proposals import (
    EncoderProposals,
    ProposalSelection,
    ProposalTokens,
    best_proposals,
    gather_tokens,
    taken_padding,
    topk_tokens,
)

MAX_LOGIT = 3.0  # of learned boxes before training


class StartingQueries(NamedTuple):
    """The result of a source of queries.

    Attributes:
        blocks: the matching queries and, in training, those of a one-to-many branch.
        proposals: the encoder's predictions for the loss; None without two stages.
    """

    blocks: list[QueryBlock]
    proposals: Predictions | None = None


class DeformableQueries(nn.Module):
    """Deformable DETR's queries, which refer to points or, with two stages, to boxes (sections 4.1, 4.2 and A.4).

    With one stage, a position and a content are learned for each query, and the reference point is computed from the
    position. With two stages, positions and contents are computed from the boxes of the proposals that most probably
    contain an object, of any class.

    Args:
        layout: number of queries.
        embed_dim: C.
        as_two_stage: use the encoder's proposals.
        mixed_selection: with two stages, learn the contents, one for each rank among the proposals (DINO, section 3.4;
            H-Deformable DETR).
        selection: with two stages, selects the proposals, see `ProposalSelection`; None for the highest scores.
        token_contents: with two stages, add the encoder tokens, without gradients, to the contents (DETA).

    Raises:
        ValueError: for mixed selection, a selection or token contents without two stages, or several groups with two
            stages without mixed selection.
    """

    encoder_groups = 1  # of heads: all groups of queries use the same proposals
    embedding: nn.Embedding | None

    def __init__(
        self,
        *,
        layout: QueryLayout,
        embed_dim: int,
        as_two_stage: bool = False,
        mixed_selection: bool = False,
        selection: ProposalSelection | None = None,
        token_contents: bool = False,
    ):
        super().__init__()
        _check_stages(layout, as_two_stage, mixed_selection, selection)
        if token_contents and not as_two_stage:
            raise ValueError("token_contents=True needs as_two_stage=True: it applies to queries made of proposals")
        self.layout = layout
        self.num_queries_one2many = layout.num_queries_one2many
        self.embed_dim = embed_dim
        self.as_two_stage = as_two_stage
        self.mixed_selection = mixed_selection
        self.selection = selection
        self.token_contents = token_contents
        self.embedding = None
        if as_two_stage:
            self.proposals = EncoderProposals(embed_dim)
            self.pos_trans = nn.Linear(2 * embed_dim, 2 * embed_dim)
            self.pos_trans_norm = nn.LayerNorm(2 * embed_dim)
            if mixed_selection:
                self.embedding = nn.Embedding(layout.total, embed_dim)
            nn.init.xavier_uniform_(self.pos_trans.weight)
            if token_contents:
                self.pix_trans = nn.Linear(embed_dim, embed_dim)
                self.pix_trans_norm = nn.LayerNorm(embed_dim)
                nn.init.xavier_uniform_(self.pix_trans.weight)
        else:
            self.embedding = nn.Embedding(layout.total, 2 * embed_dim)
            self.reference_points = nn.Linear(embed_dim, 2)
            nn.init.xavier_uniform_(self.reference_points.weight)
            nn.init.zeros_(self.reference_points.bias)

    def forward(self, memory: Memory, heads: DetectionHeads, *, training: bool) -> StartingQueries:
        """Make the initial queries of the decoder.

        Args:
            memory: the encoder's output.
            heads: with heads for the encoder when there are two stages.
            training: whether to add the queries that exist in training only.

        Returns:
            The matching queries and, with two stages, the proposals of all tokens, for a binary objectness loss.
        """
        if self.as_two_stage:
            return self._proposed(memory, heads, training)
        return self._learned(memory.tokens.shape[0], training)

    def _learned(self, batch: int, training: bool) -> StartingQueries:
        assert self.embedding is not None
        learned = self.layout.present(self.embedding.weight, training=training).expand(batch, -1, -1)
        position, content = learned.chunk(2, dim=-1)
        points = self.reference_points(position)
        reference = points.to(torch.promote_types(points.dtype, torch.float32)).sigmoid()
        return StartingQueries(self.layout.blocks(content, reference, position, training=training))

    def _proposed(self, memory: Memory, heads: DetectionHeads, training: bool) -> StartingQueries:
        proposed, levels = self.proposals(memory), memory.require_levels()
        output = heads.propose(*proposed)
        # The objectness score is the first class, which is the one that the loss trains.
        scores, number = output.logits[..., 0], self.layout.num_proposals(training=training)
        if self.selection is None:
            best = topk_tokens(scores, number, levels)
        else:
            best = self.selection(scores, output.boxes, number, levels)
        reference = gather_tokens(output.boxes, best).detach()
        embedding = get_sine_pos_embed(reference, self.embed_dim // 2, exchange_xy=False).to(memory.tokens.dtype)
        transformed = self.layout.of_proposals(self.pos_trans_norm(self.pos_trans(embedding)), training=training)
        reference = self.layout.of_proposals(reference, training=training)
        position, content = transformed.chunk(2, dim=-1)
        if self.embedding is not None:
            learned = self.layout.of_ranks(self.embedding.weight, best.shape[1], training=training)
            content = learned.expand(position.shape[0], -1, -1)
        if self.token_contents:
            tokens = self.pix_trans_norm(self.pix_trans(gather_tokens(proposed.tokens, best).detach()))
            content = content + self.layout.of_proposals(tokens, training=training)
        blocks = self.layout.blocks(
            content,
            reference,
            position,
            training=training,
            num_proposals=best.shape[1],
            padding=taken_padding(best, levels),
        )
        if not training:
            return StartingQueries(blocks)
        trained = Predictions.of(output, reference=proposed.references(), targets=Targets.class_agnostic)
        return StartingQueries(blocks, trained)


class AnchorQueries(nn.Module):
    """Queries that are boxes with contents (DAB-DETR, Liu et al., ICLR 2022), learned or proposed.

    Two stages select the proposals with the highest score of any class; only the selected proposals are trained.

    Args:
        layout: number of queries.
        embed_dim: C.
        as_two_stage: use the boxes and, without mixed selection, also the contents of the encoder's proposals.
        mixed_selection: with two stages, learn the contents, one for each rank among the proposals (DINO, Zhang et al.,
            ICLR 2023, section 3.4).
        indicator: reserve the last channel of learned contents for the indicator that distinguishes them from denoising
            queries (DN-DETR, Li et al., CVPR 2022, section 4.4).
        normal_init: draw contents and box logits from a normal distribution, as in the repositories of DAB-DETR and
            DN-DETR; otherwise initialise as detrex, see `reset_parameters`.
        selection: with two stages, selects the proposals, see `ProposalSelection`; None for the highest scores.
        project_contents: with two stages and without mixed selection, project the contents from the selected encoder
            tokens, without their gradients (DDQ).
        mask_boxes: with two stages, start from the boxes around the masks of proposals instead of their boxes (Mask
            DINO, Li et al., CVPR 2023, section 3.4), for detectors with masks.

    Raises:
        ValueError: for mixed selection, a selection, projected contents or mask boxes without two stages, projected
            contents with mixed selection, or several groups with two stages without mixed selection.
    """

    encoder_groups = 1  # of heads: all groups of queries use the same proposals
    content: nn.Embedding | None

    def __init__(
        self,
        *,
        layout: QueryLayout,
        embed_dim: int,
        as_two_stage: bool = False,
        mixed_selection: bool = False,
        indicator: bool = False,
        normal_init: bool = False,
        selection: ProposalSelection | None = None,
        project_contents: bool = False,
        mask_boxes: bool = False,
    ):
        super().__init__()
        _check_stages(layout, as_two_stage, mixed_selection, selection)
        if project_contents and (mixed_selection or not as_two_stage):
            raise ValueError(
                "project_contents=True needs as_two_stage=True and mixed_selection=False, since contents are otherwise "
                "learned"
            )
        if mask_boxes and not as_two_stage:
            raise ValueError("mask_boxes=True needs as_two_stage=True: it applies to queries made of proposals")
        self.layout = layout
        self.num_queries_one2many = layout.num_queries_one2many
        self.as_two_stage = as_two_stage
        self.mixed_selection = mixed_selection
        self.indicator = indicator
        self.normal_init = normal_init
        self.selection = selection
        self.mask_boxes = mask_boxes
        self.content = None
        if not as_two_stage or mixed_selection:
            self.content = nn.Embedding(layout.total, embed_dim - indicator)
        self.content_projection = nn.Linear(embed_dim, embed_dim) if project_contents else None
        if as_two_stage:
            self.proposals = EncoderProposals(embed_dim)
        else:
            self.boxes = AnchorBoxes(layout.total)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw boxes uniformly over the image with zero contents; contents of ranks are Xavier-uniform.

        With `normal_init` all of them are normally distributed.
        """
        if self.normal_init:
            if self.content is not None:
                nn.init.normal_(self.content.weight)
            if not self.as_two_stage:
                self.boxes.reset_parameters()
            return
        if self.as_two_stage:
            if self.content is not None:
                nn.init.xavier_uniform_(self.content.weight)
            return
        assert self.content is not None
        nn.init.zeros_(self.content.weight)
        with torch.no_grad():
            anchors = torch.rand_like(self.boxes.weight)
            self.boxes.weight.copy_(inverse_sigmoid(anchors).clamp(-MAX_LOGIT, MAX_LOGIT))

    def forward(self, memory: Memory, heads: DetectionHeads, *, training: bool) -> StartingQueries:
        """Make the initial queries of the decoder.

        Args:
            memory: the encoder's output.
            heads: with heads for the encoder when there are two stages.
            training: whether to add the queries that exist in training only.

        Returns:
            The matching queries and, with two stages, the proposals that they are made of.
        """
        if self.as_two_stage:
            return self.select(self.proposals(memory), memory, heads, training=training)
        return self._learned(memory.tokens.shape[0], training)

    def _contents(self, learned: Tensor, batch: int) -> Tensor:
        if self.indicator:
            learned = add_indicator(learned, denoising=False)
        return learned.expand(batch, -1, -1)

    def _learned(self, batch: int, training: bool) -> StartingQueries:
        assert self.content is not None
        boxes = self.layout.present(self.boxes(), training=training).expand(batch, -1, -1)
        content = self._contents(self.layout.present(self.content.weight, training=training), batch)
        return StartingQueries(self.layout.blocks(content, boxes, training=training))

    def select(
        self, proposed: ProposalTokens, memory: Memory, heads: DetectionHeads, *, training: bool
    ) -> StartingQueries:
        """Make queries of the best proposals.

        Args:
            proposed: the encoder's tokens, projected for proposals.
            memory: the encoder's output.
            heads: with heads for the encoder.
            training: whether to add the queries that exist in training only.
        """
        number = self.layout.num_proposals(training=training)
        chosen, best = best_proposals(proposed, number, memory, heads, selection=self.selection)
        if self.content_projection is not None:
            content = self.projected_contents(memory.tokens, best)
            content = self.layout.of_proposals(content, training=training)
        elif self.content is None:
            content = self.layout.of_proposals(gather_tokens(proposed.tokens, best).detach(), training=training)
        else:
            learned = self.layout.of_ranks(self.content.weight, best.shape[1], training=training)
            content = self._contents(learned, chosen.boxes.shape[0])
        boxes = chosen.boxes.detach()
        if self.mask_boxes:
            boxes = boxes_of_masks(chosen.extra[MASK_EMBEDDING], features_of(chosen), heads.eps)
        reference = self.layout.of_proposals(boxes, training=training)
        padding = taken_padding(best, memory.require_levels())
        blocks = self.layout.blocks(content, reference, training=training, num_proposals=best.shape[1], padding=padding)
        if not training:
            return StartingQueries(blocks)
        anchors = gather_tokens(proposed.references().expand(len(best), -1, -1), best)
        if self.layout.num_queries_one2many:  # the proposals of the branch have no loss
            chosen, anchors = chosen.first(self.layout.num_queries), anchors[:, : self.layout.num_queries]
        return StartingQueries(blocks, Predictions.of(chosen, reference=anchors))

    def projected_contents(self, encoded: Tensor, indices: Tensor) -> Tensor:
        """Project the contents, (B, Q, C), of the encoder's tokens (B, N, C) with indices (B, Q)."""
        assert self.content_projection is not None
        return self.content_projection(gather_tokens(encoded, indices).detach())


def _check_stages(
    layout: QueryLayout, as_two_stage: bool, mixed_selection: bool, selection: ProposalSelection | None
) -> None:
    """Raise a ValueError for two-stage options without two stages, and for groups that would be identical."""
    if selection is not None and not as_two_stage:
        raise ValueError("a selection needs as_two_stage=True: it selects proposals")
    if mixed_selection and not as_two_stage:
        raise ValueError("mixed_selection=True needs as_two_stage=True: it applies to queries made of proposals")
    if as_two_stage and not mixed_selection and layout.num_groups > 1:
        raise ValueError(
            f"num_groups={layout.num_groups} with two stages needs mixed_selection=True: all groups use the same "
            "proposals, so without learned contents they would be identical"
        )
