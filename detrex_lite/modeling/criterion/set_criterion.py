"""The set prediction loss of DETR: match each set of predictions with the objects, then compare matched pairs.

Legend: S sets whose losses are computed together.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...distributed import mean_over_processes
from ...errors import NonFiniteError, did_you_mean, require_callables
from ..matcher import Matcher
from ..predictions import FINAL, Match, Predictions, with_targets
from ..targets import Targets
from .comparison import Comparison
from .families import family
from .losses import MatchedLoss, Mean
from .match_union import MatchUnion, matched_share

DIVISORS = ("objects", "matches")


class _Sums(NamedTuple):
    """The sums of a loss over several sets, before division.

    Attributes:
        base: base name of the loss.
        names: names of the S sets.
        totals: (S,), sums of the values.
        divisors: (S,), divisors of the sums.
        least: lower bound of the divisors; None for no bound.
        is_shared: whether divisors must still be averaged over processes.
    """

    base: str
    names: list[str]
    totals: Tensor
    divisors: Tensor
    least: float | None = None
    is_shared: bool = False


class SetCriterion(nn.Module):
    """Weighted losses of named sets of predictions (the last layer, "_0", ..., "_enc", "_dn", ...).

    Args:
        matcher: matches queries with objects, for all sets at once whose match is not given.
        losses: maps base names to losses, which are computed for all sets at once, e.g. "loss_class", "loss_bbox",
            "loss_giou".
        weights: maps names to weights. Every loss has a weight under its base name. A set of predictions, or all layers
            of a family of sets, may override it: "loss_class_enc", "loss_class_dn" (and "_dn_0", ...),
            "loss_class_dn_0".
        matchers: maps the name of a set, or of a family of sets, to the matcher that replaces `matcher` there.
        union: the losses and sets that use the union of matches, and are divided by its size; None for none.
        own_losses: maps the name of a set, or of a family of sets, to the losses that replace `losses` there; their
            base names need weights as well.
        divide_by: the divisor of losses that do not return a `Mean`. "objects": the number of objects in the batch, at
            least 1, times the number of queries per object (`Predictions.repeats`), as in the papers' repositories.
            "matches": the number of matched pairs of the set, at least 1, as in mmdetection.
        over_processes: maps base names to whether the divisor of a loss is averaged over processes, so that each object
            has the same weight in all processes. The default is True, or False for losses that return a `Mean`.

    Raises:
        ValueError: when a loss is not callable or has no weight; when a weight, the union or `over_processes` names an
            unknown loss, or `over_processes` is False for a loss of the union; or when `divide_by` is unknown.
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
        self.own_losses = {name: dict(table) for name, table in (own_losses or {}).items()}
        tables = [self.losses, *self.own_losses.values()]
        self.bases = tuple(dict.fromkeys(base for table in tables for base in table))
        for table in tables:
            require_callables("loss", table)
        for name in self.bases:
            if name not in weights:
                raise ValueError(f"loss {name!r} has no weight; weights: {', '.join(weights) or 'none'}")
        for name in weights:
            if name not in self.bases and not any(name.startswith(f"{base}_") for base in self.bases):
                raise ValueError(f"weight {name!r} matches no loss{did_you_mean(name, self.bases)}")
        for name in () if union is None else union.losses:
            if name not in losses:
                raise ValueError(f"union.losses has {name!r}, which is not a loss{did_you_mean(name, losses)}")
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
        """Whether a loss or a cost compares masks and therefore needs the masks of objects."""
        return self._any_part("needs_masks")

    @property
    def needs_image_sizes(self) -> bool:
        """Whether a loss or a cost compares boxes in pixels and therefore needs the image sizes of objects."""
        return self._any_part("needs_image_sizes")

    def _any_part(self, attribute: str) -> bool:
        """Whether the attribute is true in any loss or cost."""
        losses = [loss for table in (self.losses, *self.own_losses.values()) for loss in table.values()]
        matchers = [self.matcher, *self.matchers.values()]
        costs = [cost for matcher in matchers for cost in getattr(matcher, "costs", {}).values()]
        return any(getattr(part, attribute, False) for part in (*losses, *costs))

    def forward(self, outputs: Mapping[str, Predictions], targets: Targets) -> dict[str, Tensor]:
        """Match and compute the weighted losses.

        Args:
            outputs: maps names to predictions.
            targets: the objects of the batch, which are compared with all sets that do not have their own targets.

        Returns:
            Weighted losses, named base name + name of the set, in float32 (float64 for float64 predictions).

        Raises:
            ValueError: when a loss does not give one value for each pair or each query, or when a weight or a matcher
                belongs to a set that does not exist.
            NonFiniteError: when a set cannot be matched, see `HungarianMatcher`.
        """
        self._check_names(outputs)
        with torch.autocast(targets.boxes.device.type, enabled=False):
            outputs = {name: predicted.at_least_float32() for name, predicted in with_targets(outputs, targets).items()}
            # Processes exchange these numbers before matching, because matching may fail in a single process.
            num_boxes = self._num_boxes(outputs) if self.divide_by == "objects" else {}
            fixed_matches = {
                name: predicted.match for name, predicted in outputs.items() if predicted.match is not None
            }
            tables = [self.losses, *self.own_losses.values()]
            all_losses = [item for table in tables for item in table.items()]
            waiting = {base for base, loss in all_losses if getattr(loss, "needs_matched_share", False)}
            sums = self._compare(
                fixed_matches, outputs, num_boxes, [base for base in self.bases if base not in waiting]
            )
            # Matching synchronises with the device, which computes the losses of the other sets meanwhile.
            unmatched = {name: predicted for name, predicted in outputs.items() if name not in fixed_matches}
            hungarian_matches = self._match_synchronised(unmatched, targets, num_losses=len(outputs) * len(self.bases))
            for bases, matches, divisors in self._comparisons(hungarian_matches, outputs, num_boxes):
                share = matched_share(matches[FINAL], outputs[FINAL]) if FINAL in matches else None
                sums += self._compare(matches, outputs, divisors, bases, share)
                sums += self._compare(
                    fixed_matches, outputs, num_boxes, [base for base in bases if base in waiting], share
                )
            losses = self._normalise(sums, outputs, targets)
        return {base + name: losses[base + name] for name in outputs for base in self.bases if base + name in losses}

    @property
    def _shares_divisors(self) -> bool:
        """Whether processes exchange divisors that are only known after matching."""
        return self.divide_by == "matches" or any(self.over_processes.values())

    def _match_synchronised(
        self, unmatched: Mapping[str, Predictions], targets: Targets, num_losses: int
    ) -> dict[str, Match]:
        """Match, and on failure still take part in the exchanges that other processes wait for."""
        try:
            return self._match(unmatched, targets)
        except NonFiniteError:
            if self.union is not None:
                mean_over_processes(targets.boxes.new_zeros((), dtype=torch.float32))  # same as the size of a union
            if self._shares_divisors:
                mean_over_processes(targets.boxes.new_zeros(num_losses))
            raise

    def _comparisons(
        self, matches_of_sets: Mapping[str, Match], outputs: Mapping[str, Predictions], num_boxes: Mapping[str, Tensor]
    ) -> Iterable[tuple[list[str], Mapping[str, Match], Mapping[str, Tensor]]]:
        """Return (base names of losses, matches by set name, divisors by set name) for each way of comparing sets."""
        if self.union is None:
            return [(list(self.bases), matches_of_sets, num_boxes)]
        union = self.union(matches_of_sets, outputs)
        assert union.weight is not None
        size = mean_over_processes(union.weight.sum()).clamp(min=1)
        joined = [name for name in matches_of_sets if self.union.includes(name)]
        matches, divisors = (
            {**matches_of_sets, **dict.fromkeys(joined, union)},
            {**num_boxes, **dict.fromkeys(joined, size)},
        )
        other_losses = [base for base in self.bases if base not in self.union.losses]
        return [(other_losses, matches_of_sets, num_boxes), (list(self.union.losses), matches, divisors)]

    def match(self, outputs: Mapping[str, Predictions], targets: Targets) -> dict[str, Match]:
        """Return the match of each set of predictions; sets that have a match keep it."""
        fixed_matches = {name: predicted.match for name, predicted in outputs.items() if predicted.match is not None}
        unmatched = {name: predicted for name, predicted in outputs.items() if name not in fixed_matches}
        return fixed_matches | self._match(unmatched, targets)

    def _match(self, outputs: Mapping[str, Predictions], targets: Targets) -> dict[str, Match]:
        """Call each matcher once with all of its sets."""
        shares: dict[int, tuple[Matcher, dict[str, Predictions]]] = {}
        for name, predicted in outputs.items():
            matcher = self.matchers.get(name, self.matchers.get(family(name), self.matcher))
            shares.setdefault(id(matcher), (matcher, {}))[1][name] = predicted
        all_matches: dict[str, Match] = {}
        for matcher, share in shares.values():
            all_matches |= matcher(share, targets)
        return all_matches

    def _check_names(self, outputs: Mapping[str, Predictions]) -> None:
        """Raise a ValueError for a weight or matcher of a set that does not exist, which would have no effect."""
        if self._names_checked:
            return
        known_names = {*outputs, *map(family, outputs)}
        for argument, names in (("matchers", self.matchers), ("own_losses", self.own_losses)):
            for name in names:
                if name not in known_names:
                    raise ValueError(f"{argument} has {name!r}, but the sets of predictions are {sorted(outputs)}")
        full = {base + name for base in self.bases for name in known_names} | set(self.bases)
        for name in self.weights:
            if name not in full:
                raise ValueError(f"weight {name!r} matches no set of predictions; the sets are {sorted(outputs)}")
        for name in () if self.union is None else self.union.sets:
            if name not in known_names:
                raise ValueError(f"union.sets has {name!r}, but the sets of predictions are {sorted(outputs)}")
        for base, loss in self.losses.items():
            if not any(_has(loss, predicted) for predicted in outputs.values()):
                raise ValueError(
                    f"{base} needs the further outputs {', '.join(loss.needs)}, which no set of predictions has: use "  # type: ignore[attr-defined]
                    "heads that provide them, or remove the loss"
                )
        self._names_checked = True

    @staticmethod
    def _num_boxes(outputs: Mapping[str, Predictions]) -> dict[str, Tensor]:
        """Return the divisor of each set.

        It is the number of objects per process, averaged over processes so that all processes weight objects equally,
        and at least 1, times the number of queries per object.
        """
        numbers = [[float(len(_targets_of(predicted))), float(predicted.repeats)] for predicted in outputs.values()]
        device = _targets_of(next(iter(outputs.values()))).boxes.device
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
        """Compute the losses `bases` of the sets in `matches`, without weights.

        Args:
            divisors: maps names of sets to divisors; the divisors of other sets are counted here.
        """
        groups: dict[tuple[object, ...], list[str]] = {}
        for name in matches:
            key = (*outputs[name].packing_key(), id(self._losses_of(name)), name in divisors)
            groups.setdefault(key, []).append(name)
        sums = []
        for group in groups.values():
            table = self._losses_of(group[0])
            chosen = {base: table[base] for base in bases if base in table and _has(table[base], outputs[group[0]])}
            if not chosen:
                continue
            sets = {name: outputs[name] for name in group}
            comparison = Comparison.of(sets, matches, _targets_of(outputs[group[0]]), matched_share)
            set_divisors = torch.stack([divisors[name] for name in group]) if group[0] in divisors else None
            query_weight = _weights_of_queries(list(sets.values()))
            for base, loss in chosen.items():
                totals, weights, least = self._reduce(base, loss(comparison), comparison, query_weight)
                over_processes = self.over_processes.get(base, weights is None)
                if weights is not None:
                    sums.append(_Sums(base, group, totals, weights, least, over_processes))
                elif set_divisors is not None and over_processes:
                    sums.append(_Sums(base, group, totals, set_divisors))
                else:
                    numbers = self._local_divisors(sets, comparison).to(totals.device, totals.dtype, non_blocking=True)
                    sums.append(_Sums(base, group, totals, numbers, 1.0, over_processes))
        return sums

    def _local_divisors(self, sets: Mapping[str, Predictions], comparison: Comparison) -> Tensor:
        """Count the matched pairs of each set in this process, or its objects times the queries per object: (S,)."""
        if self.divide_by == "matches":
            return torch.tensor(comparison.matched_per_set)
        return torch.tensor([max(len(_targets_of(predicted)), 1) * predicted.repeats for predicted in sets.values()])

    def _normalise(
        self, sums: Sequence[_Sums], outputs: Mapping[str, Predictions], targets: Targets
    ) -> dict[str, Tensor]:
        """Divide and weight the sums; returns the losses by their full names."""
        losses: dict[str, Tensor] = {}
        for loss_sums in self._with_shared_divisors(sums, outputs, targets) if self._shares_divisors else sums:
            divisors = loss_sums.divisors if loss_sums.least is None else loss_sums.divisors.clamp(min=loss_sums.least)
            values = loss_sums.totals / divisors
            weights = [self._weight(loss_sums.base, name) * outputs[name].weight for name in loss_sums.names]
            weighted = values * _scalar_or_vector(weights, values)
            losses |= {
                loss_sums.base + name: value for name, value in zip(loss_sums.names, weighted.unbind(), strict=True)
            }
        return losses

    def _with_shared_divisors(
        self, sums: Sequence[_Sums], outputs: Mapping[str, Predictions], targets: Targets
    ) -> list[_Sums]:
        """Replace shared divisors by their means over all processes, in a single exchange."""
        slots = {base + name: slot for slot, (name, base) in enumerate(itertools.product(outputs, self.bases))}
        local_divisors = targets.boxes.new_zeros(
            len(slots)
        )  # one slot for each loss of each set, the same in every process
        shared = [loss_sums for loss_sums in sums if loss_sums.is_shared]
        index = torch.tensor(
            [slots[loss_sums.base + name] for loss_sums in shared for name in loss_sums.names], dtype=torch.int64
        )
        index = index.to(local_divisors.device, non_blocking=True)
        if shared:
            local_divisors[index] = torch.cat(
                [loss_sums.divisors.detach().to(local_divisors.dtype) for loss_sums in shared]
            )
        means = iter(mean_over_processes(local_divisors)[index].split([len(loss_sums.names) for loss_sums in shared]))
        return [
            loss_sums._replace(divisors=next(means).to(loss_sums.totals.dtype)) if loss_sums.is_shared else loss_sums
            for loss_sums in sums
        ]

    def _losses_of(self, name: str) -> Mapping[str, MatchedLoss]:
        """Return the losses of a set by base name: those of the set, of its family, or of all sets."""
        return self.own_losses.get(name, self.own_losses.get(family(name), self.losses))

    def _weight(self, base: str, name: str) -> float:
        """Return the weight of a loss of a set: that of the set, of its family, or of the loss."""
        return self.weights.get(base + name, self.weights.get(base + family(name), self.weights[base]))

    @staticmethod
    def _reduce(
        base: str, values: Tensor | Mean, comparison: Comparison, query_weight: Tensor | None
    ) -> tuple[Tensor, Tensor | None, float]:
        """Return the sum of the values of each set, (S,); and for a `Mean`, sums of weights, (S,), and `least`."""
        tensors = values[:2] if isinstance(values, Mean) else (values,)
        shapes = [tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__ for tensor in tensors]
        pairs, queries = tuple(comparison.image.shape), tuple(comparison.logits.shape[:2])
        if any(shape != shapes[0] or shape not in (pairs, queries) for shape in shapes):
            raise ValueError(
                f"{base} returned {' with weights of '.join(map(str, shapes))}; a loss returns one value for each "
                f"matched pair, (M,) = {pairs}, or for each query, (B, R) = {queries}, which the criterion sums"
            )
        unreduced = tensors[0]
        weight = comparison.weight if unreduced.dim() == 1 else query_weight
        total = comparison.sums(unreduced if weight is None else unreduced * weight)
        if not isinstance(values, Mean):
            return total, None, 0.0
        mean_weights = values.weights if weight is None else values.weights * weight
        # The bound makes the loss 0 / tiny = 0 without queries, instead of 0 / 0 = NaN.
        return total, comparison.sums(mean_weights), max(values.least, torch.finfo(mean_weights.dtype).tiny)


def _check_over_processes(over_processes: Mapping[str, bool], bases: Sequence[str], union: MatchUnion | None) -> None:
    for name, value in over_processes.items():
        if name not in bases:
            raise ValueError(f"over_processes has {name!r}, which is not a loss{did_you_mean(name, bases)}")
        if not isinstance(value, bool):
            raise ValueError(f"over_processes.{name}={value!r} must be True or False")
        if union is not None and name in union.losses and not value:
            raise ValueError(
                f"over_processes.{name}=False, but union.losses has {name!r}: the size of the union is averaged over "
                "processes"
            )


def _has(loss: MatchedLoss, predicted: Predictions) -> bool:
    """Whether a set of predictions has the outputs that a loss needs."""
    return all(name in predicted.extra for name in getattr(loss, "needs", ()))


def _weights_of_queries(sets: Sequence[Predictions]) -> Tensor | None:
    """Return the weights of the queries of several sets, (B, R); None when all are 1."""
    if all(predicted.query_weight is None and predicted.padding is None for predicted in sets):
        return None
    weights = []
    for predicted in sets:
        query_weight, padding = predicted.query_weight, predicted.padding
        weight = predicted.logits.new_ones(predicted.logits.shape[:2]) if query_weight is None else query_weight
        weights.append((weight if padding is None else weight.masked_fill(padding, 0.0)).to(predicted.logits.dtype))
    return torch.cat(weights, dim=1)


def _scalar_or_vector(numbers: list[float], like: Tensor) -> float | Tensor:
    if len(set(numbers)) == 1:
        return numbers[0]
    return torch.tensor(numbers, dtype=like.dtype).to(like.device, non_blocking=True)


def _targets_of(predicted: Predictions) -> Targets:
    assert isinstance(predicted.targets, Targets)
    return predicted.targets
