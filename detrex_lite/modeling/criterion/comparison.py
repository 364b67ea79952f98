"""The input of losses: several sets of predictions at once, concatenated.

A detector with six layers, two stages and denoising has thirteen sets. On a GPU, operators on such small tensors take
as long to launch as to compute; the losses of all sets together launch a tenth of the kernels of a loop over sets.

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
    """Sets of predictions and the objects that they are matched with.

    Attributes:
        names: of the S sets, such as "", "_0" and "_dn"; see `name_of_layer`.
        logits: (B, R, K) class logits; K + 1 for detectors with "no object" as the last class.
        image: (M,) the image of each matched pair, in 0..B-1.
        query: (M,) the query that is matched with the object, in 0..R-1.
        target: (M,) the object, in 0..T-1.
        boxes: (M, 4) the box that the query predicts, cxcywh in 0..1.
        labels: (M,) the class of the object.
        target_boxes: (M, 4) the box of the object, cxcywh in 0..1.
        queries_per_set: S numbers that sum to R.
        matched_per_set: S numbers that sum to M.
        extra: further outputs of all queries by name, (B, R, ...) each; see `matched`.
        target_extra: further properties of all objects by name, (T, ...) each; see `wanted`.
        num_objects: T, of the batch.
        shared_queries: see `Match`.
        matched_share: the fraction of the final matching queries that have an object, a scalar; None when these are not
            matched yet, or do not exist.
        weight: (M,) the weight of each matched pair, see `Match`; None where all are 1.
        mask_features: features that are multiplied with mask embeddings; None without masks.
        match_sizes: the number of pairs of each image, for each set; None for sets whose matcher does not give it.
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
        """Concatenate sets with the same batch size, classes, extra outputs and targets.

        Args:
            predictions: maps names to sets.
            matches: maps names to matches.
            targets: the objects that all sets are matched with.
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
        """Return the result of `compute`, which is called once for all losses with the same `key`."""
        if key not in self._shared:
            self._shared[key] = compute()
        return self._shared[key]

    def pairs_per_image(self) -> list[int]:
        """Return the number of pairs of each image, B numbers that sum to M.

        It synchronises with the device when a matcher does not give these numbers.
        """
        batch, sizes_of_sets = len(self.logits), [sizes for sizes in self.match_sizes if sizes is not None]
        if not sizes_of_sets or len(sizes_of_sets) < len(self.match_sizes):
            return torch.bincount(self.image, minlength=batch).tolist()
        return [sum(sizes) for sizes in zip(*sizes_of_sets, strict=True)]

    def matched(self, name: str) -> Tensor:
        """Return the extra output `name` of the matched queries, (M, ...)."""
        return _named(self.extra, name, "further output")[self.image, self.query]

    def wanted(self, name: str) -> Tensor:
        """Return the further property `name` of the matched objects, (M, ...)."""
        return _named(self.target_extra, name, "further property of objects")[self.target]

    def class_targets(self, values: Tensor | float = 1.0) -> Tensor:
        """Return a tensor (B, R, K) that has `values` at the class of each matched query's object, and zeros elsewhere.

        Args:
            values: a scalar or (M,), non-negative and without gradients; they are multiplied by the weights of the
                pairs. If several pairs give a query the same class, the largest value counts.
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
        index = (self.image * targets.shape[1] + self.query) * targets.shape[2] + labels
        targets.view(-1).scatter_reduce_(0, index, values, "amax")
        return targets

    def largest(self, values: Tensor) -> Tensor:
        """Return the largest of `values`, (M,), in the image and set of each matched pair: (M,)."""
        return self._largest(values, self.image, len(self.logits))

    def largest_of_object(self, values: Tensor) -> Tensor:
        """Return the largest of `values`, (M,), among the pairs of the same object and set: (M,)."""
        return self._largest(values, self.target, self.num_objects)

    def _largest(self, values: Tensor, owner: Tensor, owners: int) -> Tensor:
        """Return the largest value of each owner, (M,) in 0..owners - 1, in each set: (M,)."""
        per_set = torch.tensor(self.matched_per_set)
        set_of_pair = torch.arange(len(per_set)).repeat_interleave(per_set, output_size=len(self.image))
        index = set_of_pair.to(values.device, non_blocking=True) * owners + owner
        maxima = values.new_zeros(len(self.names) * owners)
        return maxima.scatter_reduce(0, index, values, "amax", include_self=False)[index]

    def _last_pair_of_query(self) -> Tensor:
        """Return, for each pair, the index of the last pair with the same query: (M,)."""
        batch, queries = self.logits.shape[:2]
        index, numbers = self.image * queries + self.query, torch.arange(len(self.query), device=self.query.device)
        return numbers.new_zeros(batch * queries).scatter_reduce(0, index, numbers, "amax")[index]

    def sums(self, values: Tensor) -> Tensor:
        """Sum values of matched pairs, (M,), or of queries, (B, R), for each set: (S,)."""
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
    weights = [like.new_ones(len(match.query)) if match.weight is None else match.weight for match in matches]
    return torch.cat([weight.to(like.dtype) for weight in weights])


def _sums(values: Tensor, sizes: Sequence[int]) -> Tensor:
    if len(set(sizes)) == 1:  # the usual case needs only one operator
        return values.view(len(sizes), sizes[0]).sum(1)
    return torch.stack([part.sum() for part in values.split(list(sizes))])
