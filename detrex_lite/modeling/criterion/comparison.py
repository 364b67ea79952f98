"""What losses are computed from: several sets of predictions at once, one after the other.

A detector with six layers, two stages and denoising has thirteen sets. On a GPU operators on tensors as small as these
take as long to launch as to compute, and losses of all sets together launch a tenth of what a loop over sets would.

Legend: S sets, B batch, R queries of all sets of an image, M matched pairs of all sets, K classes.
"""

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...errors import did_you_mean
from ..predictions import MaskFeatures, Match, Predictions
from ..targets import Targets


@dataclass(frozen=True)
class Comparison:
    """Sets of predictions, and the objects that they are compared with.

    Attributes:
        names: of the S sets, such as "", "_0" and "_dn"; see `name_of_layer`.
        logits: (B, R, K) class logits; K + 1 for detectors that score "no object" as a last class.
        image: (M,) the image of each matched pair, in 0..B-1.
        query: (M,) the query that answers for the object, in 0..R-1.
        target: (M,) the object, in 0..T-1.
        boxes: (M, 4) the box that it predicts, cxcywh in 0..1.
        labels: (M,) the class of the object.
        target_boxes: (M, 4) its box, cxcywh in 0..1.
        queries_per_set: S numbers that sum to R.
        matched_per_set: S numbers that sum to M.
        extra: further outputs of all queries by name, (B, R, ...) each; see `matched`.
        target_extra: further properties of all objects by name, (T, ...) each; see `wanted`.
        num_objects: T, of the batch.
        shared_queries: see `Match`.
        matched_share: the share of the final matching queries that have an object, a scalar; None where these are not
            matched yet, or are not there.
        weight: (M,) the weight of each matched pair, see `Match`; None where all are 1.
        mask_features: what mask embeddings are multiplied with; None without masks.
        match_sizes: how many pairs each image has, for each set; None for sets whose matcher does not say it.
    """

    names: list[str]
    logits: Tensor
    image: Tensor
    query: Tensor
    target: Tensor
    boxes: Tensor
    labels: Tensor
    target_boxes: Tensor
    queries_per_set: list[int]
    matched_per_set: list[int]
    extra: Mapping[str, Tensor]
    target_extra: Mapping[str, Tensor]
    num_objects: int = 0
    shared_queries: bool = False
    matched_share: Tensor | None = None
    weight: Tensor | None = None
    mask_features: MaskFeatures | None = None
    match_sizes: Sequence[Sequence[int] | None] = ()
    _shared: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        predictions: Mapping[str, Predictions],
        matches: Mapping[str, Match],
        targets: Targets,
        matched_share: Tensor | None = None,
    ) -> "Comparison":
        """Put sets after each other that have the same batch size, classes, extra outputs and targets.

        Args:
            predictions: name -> set.
            matches: name -> its match.
            targets: what all of them are compared with.
            matched_share: see `Comparison`.
        """
        sets, pairs = list(predictions.values()), [matches[name] for name in predictions]
        sizes = [predicted.logits.shape[1] for predicted in sets]
        image, target = (torch.cat([getattr(match, name) for match in pairs]) for name in ("image", "target"))
        first = itertools.accumulate(sizes, initial=0)
        query = torch.cat([match.query + start for match, start in zip(pairs, first, strict=False)])
        return cls(
            names=list(predictions),
            logits=torch.cat([predicted.logits for predicted in sets], dim=1),
            image=image,
            query=query,
            target=target,
            boxes=torch.cat([predicted.boxes for predicted in sets], dim=1)[image, query],
            labels=targets.labels[target],
            target_boxes=targets.boxes[target],
            queries_per_set=sizes,
            matched_per_set=[len(match.query) for match in pairs],
            extra={name: torch.cat([predicted.extra[name] for predicted in sets], dim=1) for name in sets[0].extra},
            target_extra=targets.extra,
            num_objects=len(targets),
            shared_queries=any(match.shared_queries for match in pairs),
            matched_share=matched_share,
            weight=_weights_of_pairs(pairs, like=sets[0].boxes),
            mask_features=sets[0].mask_features,
            match_sizes=[match.sizes for match in pairs],
        )

    def shared(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, called by the first of several losses that ask for the same `key`."""
        if key not in self._shared:
            self._shared[key] = compute()
        return self._shared[key]

    def pairs_per_image(self) -> list[int]:
        """B numbers that sum to M. It waits for the device where a matcher does not say them."""
        batch, known = len(self.logits), [sizes for sizes in self.match_sizes if sizes is not None]
        if not known or len(known) < len(self.match_sizes):
            return torch.bincount(self.image, minlength=batch).tolist()
        return [sum(sizes) for sizes in zip(*known, strict=True)]

    def matched(self, name: str) -> Tensor:
        """(M, ...), what the matched queries have as the extra output `name`."""
        return _named(self.extra, name, "further output")[self.image, self.query]

    def wanted(self, name: str) -> Tensor:
        """(M, ...), what the matched objects have as the further property `name`."""
        return _named(self.target_extra, name, "further property of objects")[self.target]

    def class_targets(self, values: Tensor | float = 1.0) -> Tensor:
        """(B, R, K), zero but for `values` at the class of each matched query's object.

        Args:
            values: one for all, or (M,), not below 0 and without gradients, which are multiplied by the weights of the
                pairs. Where a query has one class of several pairs, the largest counts.
        """
        targets, labels = torch.zeros_like(self.logits), self.labels
        if self.shared_queries:
            last = self._last_pair_of_query()
            labels = labels[last]
        if not isinstance(values, Tensor):
            targets[self.image, self.query, labels] = values
            return targets
        values = (values if self.weight is None else values * self.weight).to(targets.dtype)
        if self.shared_queries:
            values = values[last]
        place = (self.image * targets.shape[1] + self.query) * targets.shape[2] + labels
        targets.view(-1).scatter_reduce_(0, place, values, "amax")
        return targets

    def largest(self, values: Tensor) -> Tensor:
        """(M,), for each matched pair the largest of `values`, (M,), in its image and set of predictions."""
        return self._largest(values, self.image, len(self.logits))

    def largest_of_object(self, values: Tensor) -> Tensor:
        """(M,), for each matched pair the largest of `values`, (M,), among the pairs of its object in its set."""
        return self._largest(values, self.target, self.num_objects)

    def _largest(self, values: Tensor, owner: Tensor, owners: int) -> Tensor:
        """(M,), the largest of each owner, (M,) in 0..owners - 1, in each set."""
        per_set = torch.tensor(self.matched_per_set)
        set_of_pair = torch.arange(len(per_set)).repeat_interleave(per_set, output_size=len(self.image))
        place = set_of_pair.to(values.device, non_blocking=True) * owners + owner
        found = values.new_zeros(len(self.names) * owners)
        return found.scatter_reduce(0, place, values, "amax", include_self=False)[place]

    def _last_pair_of_query(self) -> Tensor:
        """(M,), which is the last pair that has the same query as each pair."""
        batch, queries = self.logits.shape[:2]
        place, numbers = self.image * queries + self.query, torch.arange(len(self.query), device=self.query.device)
        return numbers.new_zeros(batch * queries).scatter_reduce(0, place, numbers, "amax")[place]

    def sums(self, values: Tensor) -> Tensor:
        """Add up values of matched pairs, (M,), or of queries, (B, R), for each set: (S,)."""
        if values.dim() == 1:
            return _sums(values, self.matched_per_set)
        return _sums(values.sum(0), self.queries_per_set)


def _named(values: Mapping[str, Tensor], name: str, kind: str) -> Tensor:
    if name not in values:
        raise ValueError(f"there is no {kind} {name!r}{did_you_mean(name, values)}")
    return values[name]


def _weights_of_pairs(matches: Sequence[Match], like: Tensor) -> Tensor | None:
    if all(match.weight is None for match in matches):
        return None
    given = [like.new_ones(len(match.query)) if match.weight is None else match.weight for match in matches]
    return torch.cat([weight.to(like.dtype) for weight in given])


def _sums(values: Tensor, sizes: Sequence[int]) -> Tensor:
    if len(set(sizes)) == 1:  # as a rule: one operator for all
        return values.view(len(sizes), sizes[0]).sum(1)
    return torch.stack([part.sum() for part in values.split(list(sizes))])
