"""One match for several sets of predictions (D-FINE, Peng et al., ICLR 2025, section 4.2: "union set").

Legend: B batch, Q queries, T objects of the batch.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..predictions import Match, Predictions
from ..targets import Targets
from .families import family


class MatchUnion:
    """Joins the matches of sets whose queries correspond, such as the layers of a decoder.

    Where sets disagree on the object of a query, the query gets the most frequent object, and the first one in a tie.

    Args:
        losses: base names of the losses that use the union; other losses use each set's match.
        sets: names of the sets, or of families of sets (see `family`), that are joined.

    Raises:
        ValueError: without losses or sets.
    """

    def __init__(self, *, losses: Sequence[str], sets: Sequence[str]):
        if not losses or not sets:
            raise ValueError(f"MatchUnion needs losses and sets of predictions, got {list(losses)} and {list(sets)}")
        self.losses = tuple(losses)
        self.sets = tuple(sets)

    def includes(self, name: str) -> bool:
        """Whether the match of a set of predictions is joined."""
        return name in self.sets or family(name) in self.sets

    def __call__(self, matches: Mapping[str, Match], outputs: Mapping[str, Predictions]) -> Match:
        """Join the matches of the sets that are included.

        The result has as many pairs as all matches together, so that its size is known without synchronising with the
        GPU. A pair occurs as often as its query has been matched, once with weight 1 and otherwise with weight 0.

        Args:
            matches: maps names to matches.
            outputs: maps names to sets with their objects.

        Raises:
            ValueError: when sets have different numbers of queries or objects, or pairs have weights.
        """
        joined = {name: match for name, match in matches.items() if self.includes(name)}
        shapes = {name: (tuple(outputs[name].logits.shape[:2]), _sizes(outputs[name])) for name in joined}
        if len(set(map(repr, shapes.values()))) > 1 or any(match.weight is not None for match in joined.values()):
            raise ValueError(
                f"the matches of {sorted(joined)} cannot be joined: sets must have the same queries and objects, and "
                f"pairs no weights; they have {shapes}"
            )
        ((batch, queries), sizes) = next(iter(shapes.values()))
        image, query, target = (
            torch.cat([getattr(match, part) for match in joined.values()]) for part in ("image", "query", "target")
        )
        if len(image) == 0:
            return Match(image, query, target, torch.zeros_like(image, dtype=torch.float32))
        first = torch.tensor([0, *sizes[:-1]]).cumsum(0).to(image.device, non_blocking=True)
        index = image * queries + query
        votes = torch.zeros(batch * queries * max(sizes), dtype=torch.int32, device=image.device)
        votes.scatter_add_(0, index * max(sizes) + target - first[image], torch.ones_like(index, dtype=torch.int32))
        chosen = votes.view(-1, max(sizes)).argmax(1)[index] + first[image]
        numbers = torch.arange(len(index), device=image.device)
        first_pair = torch.full((batch * queries,), len(index), device=image.device)
        first_pair = first_pair.scatter_reduce(0, index, numbers, "amin")[index]
        return Match(image, query, chosen, (first_pair == numbers).float())


def _sizes(predicted: Predictions) -> list[int]:
    assert isinstance(predicted.targets, Targets)
    return predicted.targets.sizes


def matched_share(match: Match, predicted: Predictions) -> Tensor:
    """Return the fraction of a set's queries that have an object, a scalar."""
    batch, queries = predicted.logits.shape[:2]
    dtype = predicted.boxes.dtype
    if match.weight is None:
        return torch.tensor(len(match.query) / max(batch * queries, 1), dtype=dtype).to(
            match.query.device, non_blocking=True
        )
    return match.weight.sum().to(dtype) / max(batch * queries, 1)
