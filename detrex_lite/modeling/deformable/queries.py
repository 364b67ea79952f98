"""Where the queries of a detector with several feature levels begin: learned, or as the encoder's best proposals.

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
    """What a source of queries gives.

    Attributes:
        blocks: the matching queries, and in training those of a one-to-many branch.
        proposals: the encoder's predictions that are trained; None without two stages.
    """

    blocks: list[QueryBlock]
    proposals: Predictions | None = None


class DeformableQueries(nn.Module):
    """Deformable DETR's queries, which refer to points, or with two stages to boxes (sections 4.1 and 4.2, A.4).

    One stage learns a position and a content for each query, and the position says where its point is. Two stages take
    the proposals that are most probably an object, of whatever class, and make positions and contents of their boxes.

    Args:
        layout: how many queries there are.
        embed_dim: C.
        as_two_stage: take queries from the encoder's proposals.
        mixed_selection: with two stages, learn the contents, one for each rank among the proposals (DINO, section 3.4;
            H-Deformable DETR).
        selection: with two stages, which proposals are taken, see `ProposalSelection`; None for those of highest score.
        token_contents: with two stages, add to contents what the tokens hold, without its gradients (DETA).

    Raises:
        ValueError: for mixed selection, a selection or contents of tokens without two stages, or several groups with
            two stages without mixed selection.
    """

    encoder_groups = 1  # of heads: all groups of queries begin at the same proposals
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
            raise ValueError("token_contents=True needs as_two_stage=True: it is about queries that are proposals")
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
        """The queries that a decoder begins with.

        Args:
            memory: the encoder's result.
            heads: with heads for the encoder when there are two stages.
            training: whether there are queries that exist in training only.

        Returns:
            Matching queries, and with two stages the proposals of all tokens, which are trained to be an object or not.
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
        # The score for "some object" is the first class, which these predictions are trained for.
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
    """Queries that are boxes with a content (DAB-DETR, Liu et al., ICLR 2022), learned or proposed.

    Two stages take the proposals whose best class has the highest score, and only these proposals are trained.

    Args:
        layout: how many queries there are.
        embed_dim: C.
        as_two_stage: take boxes, and without mixed selection also contents, from the encoder's proposals.
        mixed_selection: with two stages, learn the contents, one for each rank among the proposals (DINO, Zhang et al.,
            ICLR 2023, section 3.4).
        indicator: learned contents leave the last channel to the indicator that tells them from denoising queries
            (DN-DETR, Li et al., CVPR 2022, section 4.4).
        normal_init: all that is learned, contents and the logits of boxes, begins normally distributed, as in the
            repositories of DAB-DETR and DN-DETR; see `reset_parameters` for how it begins otherwise, as in detrex.
        selection: with two stages, which proposals are taken, see `ProposalSelection`; None for those of highest score.
        project_contents: with two stages and no mixed selection, contents are projected from what the encoder gave for
            the chosen tokens, without its gradients (DDQ).
        mask_boxes: with two stages, queries begin at the boxes around the masks of proposals instead of their boxes
            (Mask DINO, Li et al., CVPR 2023, section 3.4), for detectors with masks.

    Raises:
        ValueError: for mixed selection, a selection, projected contents or boxes of masks without two stages, projected
            contents with mixed selection, or several groups with two stages without mixed selection.
    """

    encoder_groups = 1  # of heads: all groups of queries begin at the same proposals
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
                "project_contents=True needs as_two_stage=True and mixed_selection=False: else they are learned"
            )
        if mask_boxes and not as_two_stage:
            raise ValueError("mask_boxes=True needs as_two_stage=True: it is about queries that are proposals")
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
        """Learned boxes begin all over the image, with contents of zero; contents of ranks are Xavier-uniform.

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
        """The queries that a decoder begins with.

        Args:
            memory: the encoder's result.
            heads: with heads for the encoder when there are two stages.
            training: whether there are queries that exist in training only.

        Returns:
            Matching queries, and with two stages the proposals that they were made of.
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
            proposed: the encoder's tokens.
            memory: the encoder's result.
            heads: with heads for the encoder.
            training: whether there are queries that exist in training only.
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
        if self.layout.num_queries_one2many:  # the branch's proposals are not trained
            chosen, anchors = chosen.first(self.layout.num_queries), anchors[:, : self.layout.num_queries]
        return StartingQueries(blocks, Predictions.of(chosen, reference=anchors))

    def projected_contents(self, encoded: Tensor, indices: Tensor) -> Tensor:
        """(B, Q, C), contents of the tokens `indices`, (B, Q), of the encoder's (B, N, C)."""
        assert self.content_projection is not None
        return self.content_projection(gather_tokens(encoded, indices).detach())


def _check_stages(
    layout: QueryLayout, as_two_stage: bool, mixed_selection: bool, selection: ProposalSelection | None
) -> None:
    """ValueError for what is about proposals without two stages, and for groups that would be the same."""
    if selection is not None and not as_two_stage:
        raise ValueError("a selection needs as_two_stage=True: it chooses among proposals")
    if mixed_selection and not as_two_stage:
        raise ValueError("mixed_selection=True needs as_two_stage=True: it is about queries that are proposals")
    if as_two_stage and not mixed_selection and layout.num_groups > 1:
        raise ValueError(
            f"num_groups={layout.num_groups} with two stages needs mixed_selection=True: groups begin at the same "
            "proposals, so without learned contents they would all be the same"
        )
