"""The number of queries of a detector in training and in evaluation, and the blocks that they form.

Two ideas add queries that exist in training only: groups that are each matched with all objects (Group DETR, Chen et
al., ICCV 2023), and a one-to-many branch whose queries are matched with every object several times (H-Deformable DETR,
Jia et al., CVPR 2023). Every source of matching queries supports both.

Legend: B batch, Q queries, C channels.
"""

import functools

import torch
from torch import Tensor

from .predictions import FINAL
from .queries import QueryBlock
from .targets import Targets

ONE_TO_MANY = "_one2many"


class QueryLayout:
    """The blocks that a source of matching queries creates.

    Args:
        num_queries: number of queries of each group; evaluation uses only the first group.
        num_groups: number of groups in training.
        num_queries_one2many: number of queries of the one-to-many branch in training; 0 for none. They come last.
        one2many_repeats: how often the one-to-many branch matches each object.
        one2many_weight: weight of the losses of that branch.

    Raises:
        ValueError: when a number is out of its range.
    """

    def __init__(
        self,
        num_queries: int,
        *,
        num_groups: int = 1,
        num_queries_one2many: int = 0,
        one2many_repeats: int = 6,
        one2many_weight: float = 1.0,
    ):
        if num_queries < 1:
            raise ValueError(f"num_queries={num_queries} is below 1")
        if num_groups < 1:
            raise ValueError(f"num_groups={num_groups} is below 1; a detector without groups has 1")
        if num_queries_one2many < 0:
            raise ValueError(f"num_queries_one2many={num_queries_one2many} is negative; 0 for no one-to-many branch")
        if one2many_repeats < 1:
            raise ValueError(f"one2many_repeats={one2many_repeats} is below 1")
        self.num_queries = num_queries
        self.num_groups = num_groups
        self.num_queries_one2many = num_queries_one2many
        self.one2many_weight = one2many_weight
        # A single object, so that all layers are compared with the same repeated objects.
        self.one2many_targets = functools.partial(Targets.repeated, times=one2many_repeats)

    @property
    def total(self) -> int:
        """Number of queries in training."""
        return self.num_queries * self.num_groups + self.num_queries_one2many

    def present(self, learned: Tensor, *, training: bool) -> Tensor:
        """Select learned values of queries, (`total`, ...): all in training, those of the first group in evaluation."""
        return learned if training else learned[: self.num_queries]

    def num_proposals(self, *, training: bool) -> int:
        """Return the number of encoder proposals that become queries; all groups use the same proposals."""
        return self.num_queries + (self.num_queries_one2many if training else 0)

    def of_proposals(self, values: Tensor, *, training: bool) -> Tensor:
        """Repeat values of proposals, (B, R, ...) in the order of their rank, for all queries: (B, Q, ...)."""
        if not training or self.num_groups == 1:
            return values
        matching, one2many = values[:, : self.num_queries], values[:, self.num_queries :]
        return torch.cat([*[matching] * self.num_groups, one2many], dim=1)

    def of_ranks(self, learned: Tensor, num_proposals: int, *, training: bool) -> Tensor:
        """Select learned values of queries, (`total`, C), for R proposals: (Q, C).

        Args:
            learned: rows of the first group in the order of rank, of the further groups, and of the one-to-many branch.
            num_proposals: R, which is less than `num_proposals` for an image with fewer tokens.
            training: whether groups and a one-to-many branch are used.
        """
        if not training:
            return learned[:num_proposals]
        matching = learned[: self.num_queries * self.num_groups].unflatten(0, (self.num_groups, self.num_queries))
        one2many = learned[len(learned) - self.num_queries_one2many :][: max(num_proposals - self.num_queries, 0)]
        matching = matching[:, :num_proposals].flatten(0, 1)
        return torch.cat([matching, one2many]) if len(one2many) else matching

    def blocks(
        self,
        content: Tensor,
        reference: Tensor | None,
        position: Tensor | None = None,
        *,
        training: bool,
        num_proposals: int | None = None,
        padding: Tensor | None = None,
    ) -> list[QueryBlock]:
        """Split queries into blocks.

        Args:
            content: (B, Q, C), first those of all groups, then those of the one-to-many branch.
            reference, position: see `QueryBlock`, of the same queries.
            training: whether groups and a one-to-many branch are used; otherwise all queries are one block.
            num_proposals: number of proposals that the queries are made of, which may be below `num_proposals` because
                an image may have fewer tokens; None for learned queries.
            padding: (B, R) bool, True = a proposal for which an image has no token; None when all have enough.
        """
        if padding is not None:
            padding = self.of_proposals(padding, training=training)
        if not training or self.total == self.num_queries:
            return [QueryBlock(FINAL, content, reference, position, padding=padding)]
        if not self.num_queries_one2many:
            return [self._matching(content, reference, position, padding)]
        in_group = self.num_queries if num_proposals is None else min(self.num_queries, num_proposals)
        sizes = [in_group * self.num_groups, content.shape[1] - in_group * self.num_groups]
        contents = content.split(sizes, dim=1)
        references = (None, None) if reference is None else reference.split(sizes, dim=1)
        positions = (None, None) if position is None else position.split(sizes, dim=1)
        paddings = (None, None) if padding is None else padding.split(sizes, dim=1)
        one2many = QueryBlock(
            ONE_TO_MANY,
            contents[1],
            references[1],
            positions[1],
            targets=self.one2many_targets,
            weight=self.one2many_weight,
            padding=paddings[1],
        )
        return [self._matching(contents[0], references[0], positions[0], paddings[0]), one2many]

    def _matching(
        self, content: Tensor, reference: Tensor | None, position: Tensor | None, padding: Tensor | None
    ) -> QueryBlock:
        groups = self.num_groups
        return QueryBlock(FINAL, content, reference, position, num_groups=groups, repeats=groups, padding=padding)
