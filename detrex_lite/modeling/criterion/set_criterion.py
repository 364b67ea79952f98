"""The set prediction loss of DETR: match, then compare what is matched, for every set of predictions.

Legend: S sets that are computed together.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...distributed import mean_over_processes
from ...errors import NonFiniteError, did_you_mean
from ..matcher import Matcher
from ..predictions import FINAL, Match, Predictions, with_targets
from ..targets import Targets
from .comparison import Comparison
from .families import family
from .losses import MatchedLoss, Mean
from .match_union import MatchUnion, matched_share

DIVISORS = ("objects", "matches")


class _Sums(NamedTuple):
    """A loss of several sets before it is divided.

    Attributes:
        base: its base name.
        names: of the S sets.
        totals: (S,), the sums of its values.
        divisors: (S,), what they are divided by.
        least: divisors count as this much at least; None where they need no bound.
        is_shared: whether divisors are still to be averaged over processes.
    """

    base: str
    names: list[str]
    totals: Tensor
    divisors: Tensor
    least: float | None = None
    is_shared: bool = False


class SetCriterion(nn.Module):
    """Weighted losses of named sets of predictions (last layer, "_0".., "_enc", "_dn", ..).

    Args:
        matcher: finds which query answers for which object, for all sets at once that do not say so themselves.
        losses: base name -> loss, computed for all sets at once, e.g. "loss_class", "loss_bbox", "loss_giou".
        weights: name -> weight. Every loss has one under its base name. A set of predictions, or all layers of a family
            of sets, may have its own: "loss_class_enc", "loss_class_dn" (and "_dn_0", ..), "loss_class_dn_0".
        matchers: name of a set, or of a family of sets, -> the matcher that takes the place of `matcher` there.
        union: which losses compare which sets by the union of their matches, and divide by its size; None for none.
        own_losses: name of a set, or of a family of sets, -> the losses that take the place of `losses` there; their
            base names need weights, too.
        divide_by: what a sum of values is divided by, but for losses that return a `Mean`. "objects": the objects of
            the batch, at least 1, times the queries that each has (`Predictions.repeats`), as in the papers'
            repositories. "matches": the matched pairs of the set, at least 1, as in mmdetection.
        over_processes: base name -> whether what a loss is divided by is averaged over processes, so that each object
            weighs the same in all of them. Without an entry it is, but for losses that return a `Mean`.

    Raises:
        ValueError: when a loss has no weight; when a weight, the union or `over_processes` has a loss that there is
            not, or `over_processes` one whose divisor the union averages; or when `divide_by` has another value.
    """

    def __init__(
        self,
        *,
        matcher: Matcher,
        losses: Mapping[str, MatchedLoss],
        weights: Mapping[str, float],
        matchers: Mapping[str, Matcher] | None = None,
        union: MatchUnion | None = None,
        own_losses: Mapping[str, Mapping[str, MatchedLoss]] | None = None,
        divide_by: str = "objects",
        over_processes: Mapping[str, bool] | None = None,
    ):
        super().__init__()
        self.losses = dict(losses)
        self.own_losses = {name: dict(own) for name, own in (own_losses or {}).items()}
        tables = [self.losses, *self.own_losses.values()]
        self.bases = tuple(dict.fromkeys(base for table in tables for base in table))
        for name in self.bases:
            if name not in weights:
                raise ValueError(f"loss {name!r} has no weight; weights: {', '.join(weights) or 'none'}")
        for name in weights:
            if name not in self.bases and not any(name.startswith(f"{base}_") for base in self.bases):
                raise ValueError(f"weight {name!r} belongs to no loss{did_you_mean(name, self.bases)}")
        for name in () if union is None else union.losses:
            if name not in losses:
                raise ValueError(f"union.losses has {name!r}, which is no loss{did_you_mean(name, losses)}")
        if divide_by not in DIVISORS:
            choices = f"; choices: {', '.join(DIVISORS)}"
            raise ValueError(f"unknown divide_by={divide_by!r}{did_you_mean(divide_by, DIVISORS, otherwise=choices)}")
        self.over_processes = dict(over_processes or {})
        _check_over_processes(self.over_processes, self.bases, union)
        self.divide_by = divide_by
        self.matcher = matcher
        self.matchers = dict(matchers or {})
        self.union = union
        self.weights = {name: float(weight) for name, weight in weights.items()}
        self._names_checked = False

    @property
    def needs_masks(self) -> bool:
        """Whether a loss or a cost compares masks, so that objects must have them."""
        return self._any_part("needs_masks")

    @property
    def needs_image_sizes(self) -> bool:
        """Whether a loss or a cost compares boxes in pixels, so that objects must know the size of their image."""
        return self._any_part("needs_image_sizes")

    def _any_part(self, attribute: str) -> bool:
        """Whether a loss or a cost has the attribute, and it is true."""
        losses = [loss for table in (self.losses, *self.own_losses.values()) for loss in table.values()]
        matchers = [self.matcher, *self.matchers.values()]
        costs = [cost for matcher in matchers for cost in getattr(matcher, "costs", {}).values()]
        return any(getattr(part, attribute, False) for part in (*losses, *costs))

    def forward(self, outputs: Mapping[str, Predictions], targets: Targets) -> dict[str, Tensor]:
        """Compare.

        Args:
            outputs: name -> predictions.
            targets: the batch's objects, which sets without targets of their own are compared with.

        Returns:
            Weighted losses under base name + name of the set, in float32 (float64 for float64 predictions).

        Raises:
            ValueError: when a loss does not give one value for each pair or each query, or when a weight or a matcher
                belongs to a set that does not exist.
            NonFiniteError: when a set cannot be matched, see `HungarianMatcher`.
        """
        self._check_names(outputs)
        with torch.autocast(targets.boxes.device.type, enabled=False):
            outputs = {name: given.at_least_float32() for name, given in with_targets(outputs, targets).items()}
            # Processes exchange these numbers, so they come before matching, which may fail in one of them alone.
            num_boxes = self._num_boxes(outputs) if self.divide_by == "objects" else {}
            known = {name: predicted.match for name, predicted in outputs.items() if predicted.match is not None}
            tables = [self.losses, *self.own_losses.values()]
            all_losses = [one for table in tables for one in table.items()]
            waiting = {base for base, loss in all_losses if getattr(loss, "needs_matched_share", False)}
            sums = self._compare(known, outputs, num_boxes, [base for base in self.bases if base not in waiting])
            # Matching waits for the device, which has the losses of the others to compute meanwhile.
            unmatched = {name: predicted for name, predicted in outputs.items() if name not in known}
            own = self._match_with_others(unmatched, targets, num_losses=len(outputs) * len(self.bases))
            for bases, matches, divisors in self._ways_to_compare(own, outputs, num_boxes):
                share = matched_share(matches[FINAL], outputs[FINAL]) if FINAL in matches else None
                sums += self._compare(matches, outputs, divisors, bases, share)
                sums += self._compare(known, outputs, num_boxes, [base for base in bases if base in waiting], share)
            losses = self._divided(sums, outputs, targets)
        return {base + name: losses[base + name] for name in outputs for base in self.bases if base + name in losses}

    @property
    def _shares_divisors(self) -> bool:
        """Whether processes exchange divisors that are known after matching."""
        return self.divide_by == "matches" or any(self.over_processes.values())

    def _match_with_others(
        self, unmatched: Mapping[str, Predictions], targets: Targets, num_losses: int
    ) -> dict[str, Match]:
        """Match; other processes, which go on to exchange numbers, do not wait if this one fails."""
        try:
            return self._match(unmatched, targets)
        except NonFiniteError:
            if self.union is not None:
                mean_over_processes(targets.boxes.new_zeros((), dtype=torch.float32))  # as the size of a union is
            if self._shares_divisors:
                mean_over_processes(targets.boxes.new_zeros(num_losses))
            raise

    def _ways_to_compare(
        self, own: Mapping[str, Match], outputs: Mapping[str, Predictions], num_boxes: Mapping[str, Tensor]
    ) -> Iterable[tuple[list[str], Mapping[str, Match], Mapping[str, Tensor]]]:
        """Base names of losses, name -> match by which they compare each set, name -> what they divide by."""
        if self.union is None:
            return [(list(self.bases), own, num_boxes)]
        union = self.union(own, outputs)
        assert union.weight is not None
        size = mean_over_processes(union.weight.sum()).clamp(min=1)
        joined = [name for name in own if self.union.includes(name)]
        matches, divisors = {**own, **dict.fromkeys(joined, union)}, {**num_boxes, **dict.fromkeys(joined, size)}
        others = [base for base in self.bases if base not in self.union.losses]
        return [(others, own, num_boxes), (list(self.union.losses), matches, divisors)]

    def match(self, outputs: Mapping[str, Predictions], targets: Targets) -> dict[str, Match]:
        """Name -> match for each set of predictions; those that come with one keep it."""
        known = {name: predicted.match for name, predicted in outputs.items() if predicted.match is not None}
        unmatched = {name: predicted for name, predicted in outputs.items() if name not in known}
        return known | self._match(unmatched, targets)

    def _match(self, outputs: Mapping[str, Predictions], targets: Targets) -> dict[str, Match]:
        """Every matcher takes all of its sets at once."""
        shares: dict[int, tuple[Matcher, dict[str, Predictions]]] = {}
        for name, predicted in outputs.items():
            matcher = self.matchers.get(name, self.matchers.get(family(name), self.matcher))
            shares.setdefault(id(matcher), (matcher, {}))[1][name] = predicted
        found: dict[str, Match] = {}
        for matcher, share in shares.values():
            found |= matcher(share, targets)
        return found

    def _check_names(self, outputs: Mapping[str, Predictions]) -> None:
        """A weight or matcher of a set that does not exist would be ignored in silence."""
        if self._names_checked:
            return
        known = {*outputs, *map(family, outputs)}
        for argument, names in (("matchers", self.matchers), ("own_losses", self.own_losses)):
            for name in names:
                if name not in known:
                    raise ValueError(f"{argument} has {name!r}, but the sets of predictions are {sorted(outputs)}")
        full = {base + name for base in self.bases for name in known} | set(self.bases)
        for name in self.weights:
            if name not in full:
                raise ValueError(f"weight {name!r} belongs to no set of predictions; they are {sorted(outputs)}")
        for name in () if self.union is None else self.union.sets:
            if name not in known:
                raise ValueError(f"union.sets has {name!r}, but the sets of predictions are {sorted(outputs)}")
        for base, loss in self.losses.items():
            if not any(_has(loss, predicted) for predicted in outputs.values()):
                raise ValueError(
                    f"{base} needs the further outputs {', '.join(loss.needs)}, which no set of predictions has: use "  # type: ignore[attr-defined]
                    "heads that give them, or leave the loss out"
                )
        self._names_checked = True

    @staticmethod
    def _num_boxes(outputs: Mapping[str, Predictions]) -> dict[str, Tensor]:
        """What the sums of each set are divided by.

        Objects per process, averaged over processes and at least 1, so that all processes weigh objects alike; times
        the queries that each has.
        """
        numbers = [[float(len(_own(predicted))), float(predicted.repeats)] for predicted in outputs.values()]
        device = _own(next(iter(outputs.values()))).boxes.device
        counts, repeats = torch.tensor(numbers).to(device, non_blocking=True).unbind(1)
        return dict(zip(outputs, (mean_over_processes(counts).clamp(min=1) * repeats).unbind(), strict=True))

    def _compare(
        self,
        matches: Mapping[str, Match],
        outputs: Mapping[str, Predictions],
        divisors: Mapping[str, Tensor],
        bases: Sequence[str],
        matched_share: Tensor | None = None,
    ) -> list[_Sums]:
        """The losses `bases` of the sets that have a match here, not weighted yet.

        Args:
            divisors: name of a set -> what its sums are divided by; those without one are counted here.
        """
        groups: dict[tuple[object, ...], list[str]] = {}
        for name in matches:
            key = (*outputs[name].packing_key(), id(self._losses_of(name)), name in divisors)
            groups.setdefault(key, []).append(name)
        found = []
        for group in groups.values():
            table = self._losses_of(group[0])
            chosen = {base: table[base] for base in bases if base in table and _has(table[base], outputs[group[0]])}
            if not chosen:
                continue
            sets = {name: outputs[name] for name in group}
            comparison = Comparison.of(sets, matches, _own(outputs[group[0]]), matched_share)
            given = torch.stack([divisors[name] for name in group]) if group[0] in divisors else None
            query_weight = _weights_of_queries(list(sets.values()))
            for base, loss in chosen.items():
                totals, weights, least = self._reduce(base, loss(comparison), comparison, query_weight)
                over_processes = self.over_processes.get(base, weights is None)
                if weights is not None:
                    found.append(_Sums(base, group, totals, weights, least, over_processes))
                elif given is not None and over_processes:
                    found.append(_Sums(base, group, totals, given))
                else:
                    numbers = self._own_numbers(sets, comparison).to(totals.device, totals.dtype, non_blocking=True)
                    found.append(_Sums(base, group, totals, numbers, 1.0, over_processes))
        return found

    def _own_numbers(self, sets: Mapping[str, Predictions], comparison: Comparison) -> Tensor:
        """(S,), the matched pairs of each set in this process, or its objects times the queries that each has."""
        if self.divide_by == "matches":
            return torch.tensor(comparison.matched_per_set)
        return torch.tensor([max(len(_own(one)), 1) * one.repeats for one in sets.values()])

    def _divided(
        self, sums: Sequence[_Sums], outputs: Mapping[str, Predictions], targets: Targets
    ) -> dict[str, Tensor]:
        """The weighted losses by their full names."""
        losses: dict[str, Tensor] = {}
        for one in self._with_shared_divisors(sums, outputs, targets) if self._shares_divisors else sums:
            divisors = one.divisors if one.least is None else one.divisors.clamp(min=one.least)
            values = one.totals / divisors
            weights = [self._weight(one.base, name) * outputs[name].weight for name in one.names]
            weighted = values * _scalar_or_vector(weights, values)
            losses |= {one.base + name: value for name, value in zip(one.names, weighted.unbind(), strict=True)}
        return losses

    def _with_shared_divisors(
        self, sums: Sequence[_Sums], outputs: Mapping[str, Predictions], targets: Targets
    ) -> list[_Sums]:
        """The same with the means over all processes where these are wanted, which are exchanged at once."""
        places = {base + name: place for place, (name, base) in enumerate(itertools.product(outputs, self.bases))}
        mine = targets.boxes.new_zeros(len(places))  # one number for each loss of each set, in every process
        shared = [one for one in sums if one.is_shared]
        index = torch.tensor([places[one.base + name] for one in shared for name in one.names], dtype=torch.int64)
        index = index.to(mine.device, non_blocking=True)
        if shared:
            mine[index] = torch.cat([one.divisors.detach().to(mine.dtype) for one in shared])
        means = iter(mean_over_processes(mine)[index].split([len(one.names) for one in shared]))
        return [one._replace(divisors=next(means).to(one.totals.dtype)) if one.is_shared else one for one in sums]

    def _losses_of(self, name: str) -> Mapping[str, MatchedLoss]:
        """Base name -> loss of a set: its own ones, those of its family, or those of all."""
        return self.own_losses.get(name, self.own_losses.get(family(name), self.losses))

    def _weight(self, base: str, name: str) -> float:
        """The weight of a loss of a set: its own, that of its family, or that of the loss."""
        return self.weights.get(base + name, self.weights.get(base + family(name), self.weights[base]))

    @staticmethod
    def _reduce(
        base: str, values: Tensor | Mean, comparison: Comparison, query_weight: Tensor | None
    ) -> tuple[Tensor, Tensor | None, float]:
        """(S,) the sum of the values of each set; (S,) the sum of the weights of a `Mean`, and its least value."""
        given = values[:2] if isinstance(values, Mean) else (values,)
        shapes = [tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in given]
        pairs, queries = tuple(comparison.image.shape), tuple(comparison.logits.shape[:2])
        if any(shape != shapes[0] or shape not in (pairs, queries) for shape in shapes):
            raise ValueError(
                f"{base} gave {' with weights of '.join(map(str, shapes))}; a loss gives one value for each matched "
                f"pair, (M,) = {pairs}, or one for each query, (B, R) = {queries}, and the criterion adds them up"
            )
        unreduced = given[0]
        weight = comparison.weight if unreduced.dim() == 1 else query_weight
        total = comparison.sums(unreduced if weight is None else unreduced * weight)
        if not isinstance(values, Mean):
            return total, None, 0.0
        mean_weights = values.weights if weight is None else values.weights * weight
        # Without queries the loss is 0 / tiny = 0, where 0 / 0 would be NaN.
        return total, comparison.sums(mean_weights), max(values.least, torch.finfo(mean_weights.dtype).tiny)


def _check_over_processes(over_processes: Mapping[str, bool], bases: Sequence[str], union: MatchUnion | None) -> None:
    for name, value in over_processes.items():
        if name not in bases:
            raise ValueError(f"over_processes has {name!r}, which is no loss{did_you_mean(name, bases)}")
        if not isinstance(value, bool):
            raise ValueError(f"over_processes.{name}={value!r}: it is True or False")
        if union is not None and name in union.losses and not value:
            raise ValueError(
                f"over_processes.{name}=False, but union.losses has {name!r}: the size of the union is averaged over "
                "processes"
            )


def _has(loss: MatchedLoss, predicted: Predictions) -> bool:
    """Whether a set of predictions has what a loss needs."""
    return all(name in predicted.extra for name in getattr(loss, "needs", ()))


def _weights_of_queries(sets: Sequence[Predictions]) -> Tensor | None:
    """(B, R), the weights of the queries of several sets; None where all are 1."""
    if all(predicted.query_weight is None and predicted.padding is None for predicted in sets):
        return None
    weights = []
    for predicted in sets:
        given, padding = predicted.query_weight, predicted.padding
        weight = predicted.logits.new_ones(predicted.logits.shape[:2]) if given is None else given
        weights.append((weight if padding is None else weight.masked_fill(padding, 0.0)).to(predicted.logits.dtype))
    return torch.cat(weights, dim=1)


def _scalar_or_vector(numbers: list[float], like: Tensor) -> float | Tensor:
    if len(set(numbers)) == 1:
        return numbers[0]
    return torch.tensor(numbers, dtype=like.dtype).to(like.device, non_blocking=True)


def _own(predicted: Predictions) -> Targets:
    assert isinstance(predicted.targets, Targets)
    return predicted.targets
