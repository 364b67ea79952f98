"""The set prediction loss of DETR: match, then compare what is matched, for every set of predictions."""

from collections.abc import Iterable, Mapping, Sequence

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


class SetCriterion(nn.Module):
    """Weighted losses of named sets of predictions (last layer, "_0".., "_enc", "_dn", ..).

    Args:
        matcher: finds which query answers for which object, for all sets at once that do not say so themselves.
        losses: base name -> loss, computed for all sets at once, e.g. "loss_class", "loss_bbox", "loss_giou".
        weights: name -> weight. Every loss has one under its base name. A set of predictions, or all layers of a family
            of sets, may have its own: "loss_class_enc", "loss_class_dn" (and "_dn_0", ..), "loss_class_dn_0".
        matchers: name of a set, or of a family of sets, -> the matcher that takes the place of `matcher` there.
        union: which losses compare which sets by the union of their matches, and divide by its size; None for none.

    Raises:
        ValueError: when a loss has no weight, or a weight or the union a loss that there is not.
    """

    def __init__(
        self,
        *,
        matcher: Matcher,
        losses: Mapping[str, MatchedLoss],
        weights: Mapping[str, float],
        matchers: Mapping[str, Matcher] | None = None,
        union: MatchUnion | None = None,
    ):
        super().__init__()
        for name in losses:
            if name not in weights:
                raise ValueError(f"loss {name!r} has no weight; weights: {', '.join(weights) or 'none'}")
        for name in weights:
            if name not in losses and not any(name.startswith(f"{base}_") for base in losses):
                raise ValueError(f"weight {name!r} belongs to no loss{did_you_mean(name, losses)}")
        for name in () if union is None else union.losses:
            if name not in losses:
                raise ValueError(f"union.losses has {name!r}, which is no loss{did_you_mean(name, losses)}")
        self.matcher = matcher
        self.matchers = dict(matchers or {})
        self.union = union
        self.losses = dict(losses)
        self.weights = {name: float(weight) for name, weight in weights.items()}
        self._names_checked = False

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
            num_boxes = self._num_boxes(outputs)
            known = {name: predicted.match for name, predicted in outputs.items() if predicted.match is not None}
            waiting = {base for base, loss in self.losses.items() if getattr(loss, "needs_matched_share", False)}
            losses = self._compare(known, outputs, num_boxes, [base for base in self.losses if base not in waiting])
            # Matching waits for the device, which has the losses of the others to compute meanwhile.
            unmatched = {name: predicted for name, predicted in outputs.items() if name not in known}
            own = self._match(unmatched, targets) if self.union is None else self._match_for_union(unmatched, targets)
            for bases, matches, divisors in self._ways_to_compare(own, outputs, num_boxes):
                share = matched_share(matches[FINAL], outputs[FINAL]) if FINAL in matches else None
                losses |= self._compare(matches, outputs, divisors, bases, share)
                losses |= self._compare(known, outputs, num_boxes, [base for base in bases if base in waiting], share)
        return {base + name: losses[base + name] for name in outputs for base in self.losses if base + name in losses}

    def _match_for_union(self, unmatched: Mapping[str, Predictions], targets: Targets) -> dict[str, Match]:
        """Match; other processes, which go on to exchange the size of the union, do not wait if this one fails."""
        try:
            return self._match(unmatched, targets)
        except NonFiniteError:
            mean_over_processes(targets.boxes.new_zeros((), dtype=torch.float32))  # as the size of a union is
            raise

    def _ways_to_compare(
        self, own: Mapping[str, Match], outputs: Mapping[str, Predictions], num_boxes: Mapping[str, Tensor]
    ) -> Iterable[tuple[list[str], Mapping[str, Match], Mapping[str, Tensor]]]:
        """Base names of losses, name -> match by which they compare each set, name -> what they divide by."""
        if self.union is None:
            return [(list(self.losses), own, num_boxes)]
        union = self.union(own, outputs)
        assert union.weight is not None
        size = mean_over_processes(union.weight.sum()).clamp(min=1)
        joined = [name for name in own if self.union.includes(name)]
        matches, divisors = {**own, **dict.fromkeys(joined, union)}, {**num_boxes, **dict.fromkeys(joined, size)}
        others = [base for base in self.losses if base not in self.union.losses]
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
        for name in self.matchers:
            if name not in known:
                raise ValueError(f"matchers has {name!r}, but the sets of predictions are {sorted(outputs)}")
        full = {base + name for base in self.losses for name in known} | set(self.losses)
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
        num_boxes: Mapping[str, Tensor],
        bases: Sequence[str],
        matched_share: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The weighted losses `bases` of the sets that have a match here."""
        groups: dict[tuple[object, ...], list[str]] = {}
        for name in matches:
            groups.setdefault(outputs[name].packing_key(), []).append(name)
        losses: dict[str, Tensor] = {}
        for group in groups.values():
            chosen = {base: self.losses[base] for base in bases if _has(self.losses[base], outputs[group[0]])}
            if not chosen:
                continue
            sets = {name: outputs[name] for name in group}
            comparison = Comparison.of(sets, matches, _own(outputs[group[0]]), matched_share)
            divisor = torch.stack([num_boxes[name] for name in group])
            weights = _Weights(comparison, list(sets.values()), [matches[name] for name in group])
            for base, loss in chosen.items():
                values = self._reduce(base, loss(comparison), comparison, weights, divisor)
                weighted = values * _scalar_or_vector(
                    [self._weight(base, name) * outputs[name].weight for name in group], values
                )
                losses |= {base + name: value for name, value in zip(group, weighted.unbind(), strict=True)}
        return losses

    def _weight(self, base: str, name: str) -> float:
        """The weight of a loss of a set: its own, that of its family, or that of the loss."""
        return self.weights.get(base + name, self.weights.get(base + family(name), self.weights[base]))

    @staticmethod
    def _reduce(
        base: str, values: Tensor | Mean, comparison: Comparison, weights: "_Weights", divisor: Tensor
    ) -> Tensor:
        """(S,), one value for each set."""
        given = values if isinstance(values, Mean) else (values,)
        shapes = [tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in given]
        pairs, queries = tuple(comparison.image.shape), tuple(comparison.logits.shape[:2])
        if any(shape != shapes[0] or shape not in (pairs, queries) for shape in shapes):
            raise ValueError(
                f"{base} gave {' with weights of '.join(map(str, shapes))}; a loss gives one value for each matched "
                f"pair, (M,) = {pairs}, or one for each query, (B, R) = {queries}, and the criterion adds them up"
            )
        unreduced = given[0]
        weight = weights.of_pairs if unreduced.dim() == 1 else weights.of_queries
        total = comparison.sums(unreduced if weight is None else unreduced * weight)
        if not isinstance(values, Mean):
            return total / divisor
        mean_weights = values.weights if weight is None else values.weights * weight
        # Without queries the loss is 0 / tiny = 0, where 0 / 0 would be NaN.
        return total / comparison.sums(mean_weights).clamp(min=torch.finfo(mean_weights.dtype).tiny)


def _has(loss: MatchedLoss, predicted: Predictions) -> bool:
    """Whether a set of predictions has what a loss needs."""
    return all(name in predicted.extra for name in getattr(loss, "needs", ()))


class _Weights:
    """Weights of the pairs and queries of several sets, None where all are 1."""

    def __init__(self, comparison: Comparison, sets: list[Predictions], matches: list[Match]):
        self.of_pairs: Tensor | None = None
        self.of_queries: Tensor | None = None
        if any(match.weight is not None for match in matches):
            ones = [comparison.boxes.new_ones(len(match.query)) for match in matches]
            given = [match.weight for match in matches]
            self.of_pairs = torch.cat(
                [one if value is None else value.to(one.dtype) for one, value in zip(ones, given, strict=True)]
            )
        if any(predicted.query_weight is not None for predicted in sets):
            weights = [predicted.query_weight for predicted in sets]
            full = [predicted.logits.new_ones(predicted.logits.shape[:2]) for predicted in sets]
            self.of_queries = torch.cat(
                [one if value is None else value.to(one.dtype) for one, value in zip(full, weights, strict=True)], dim=1
            )


def _scalar_or_vector(numbers: list[float], like: Tensor) -> float | Tensor:
    if len(set(numbers)) == 1:
        return numbers[0]
    return torch.tensor(numbers, dtype=like.dtype).to(like.device, non_blocking=True)


def _own(predicted: Predictions) -> Targets:
    assert isinstance(predicted.targets, Targets)
    return predicted.targets
