"""Averages the weights of several checkpoints, to one model that is often better than each of them.

The checkpoints must be of one run, or of runs with the same initial weights: only then is their average a good model.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import few
from .files import CheckpointError, read_checkpoint
from .load import AVERAGED, model_state

COUNTER = "num_batches_tracked"
"""Suffix of the names of batch norms' counters, which may differ between the checkpoints of an average."""

KEPT = ("class_names", "category_ids", "config")
"""Entries of a checkpoint that an average keeps in addition to weights."""


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a checkpoint file, and further entries about the model.

    Attributes:
        path: path of the file, for messages.
        state: tensors by name.
        about: the entries of `KEPT` that the file has.
    """

    path: Path
    state: dict[str, Tensor]
    about: dict[str, Any]


def read_for_average(
    paths: Sequence[str | Path], *, prefer_ema: bool = True, trusted: bool = False
) -> Iterator[Checkpoint]:
    """Read checkpoints one after the other.

    Args:
        paths: paths of the files.
        prefer_ema: take the running mean of the weights if the checkpoints have one.
        trusted: see `read_checkpoint`.

    Raises:
        CheckpointError: when a file cannot be read, only some of the files have a running mean, or their classes
            differ.
    """
    first: tuple[Path, bool, list[str]] | None = None
    for path in map(Path, paths):
        stored = read_checkpoint(path, trusted=trusted)
        has_mean = any(isinstance(stored.get(name), Mapping) for name in AVERAGED)
        names = [str(name) for name in stored.get("class_names") or ()]
        first = first or (path, has_mean, names)
        if prefer_ema and has_mean != first[1]:
            with_mean, without = (path, first[0]) if has_mean else (first[0], path)
            raise CheckpointError(
                f"{with_mean} has a running mean of its weights (EMA), and {without} has none: average the last "
                "weights of all checkpoints (prefer_ema=False, --last-weights)"
            )
        if names and first[2] and names != first[2]:
            raise CheckpointError(
                f"{path} was trained on the classes {few(names)}, and {first[0]} on {few(first[2])}: checkpoints of an "
                "average must have the same classes in the same order"
            )
        about = {name: stored[name] for name in KEPT if name in stored}
        yield Checkpoint(path, model_state(stored, prefer_ema=prefer_ema), about)


def average(checkpoints: Iterable[Checkpoint], weights: Sequence[float] | None = None) -> Checkpoint:
    """Compute the weighted mean of the weights of checkpoints, which are read one at a time.

    Floating-point tensors, including the running statistics of batch norms, are averaged in float32 (float64 tensors in
    float64). Other tensors, such as indices, must be equal, except for the counters of batch norms, of which the
    largest is used.

    Args:
        checkpoints: at least one checkpoint; entries in addition to weights are those of the first.
        weights: weight of each checkpoint, with a positive sum; None for equal weights.

    Raises:
        CheckpointError: when names, shapes, dtypes or integer tensors differ; the message names the files.
        ValueError: without checkpoints, or for a wrong number of weights, negative weights or a sum of 0.
    """
    mean: Checkpoint | None = None
    total, number = 0.0, 0
    for checkpoint in checkpoints:
        if weights is not None and number >= len(weights):
            raise ValueError(f"there are more checkpoints than the {len(weights)} weights")
        weight = 1.0 if weights is None else float(weights[number])
        if not 0 <= weight < float("inf"):
            raise ValueError(f"weights of an average must be finite and not negative, got {weight:g}")
        number += 1
        total += weight
        if mean is None:
            state = {name: _accumulator(value) for name, value in checkpoint.state.items()}
            mean = Checkpoint(checkpoint.path, state, checkpoint.about)
            dtypes = {name: value.dtype for name, value in checkpoint.state.items()}
        else:
            _require_alike(mean, checkpoint, dtypes)
            _add(mean.state, checkpoint.state, weight / total if total else 0.0)
    if mean is None:
        raise ValueError("there is no checkpoint to average")
    if weights is not None and number < len(weights):
        raise ValueError(f"there are {number} checkpoints and {len(weights)} weights")
    if not total:
        raise ValueError("the weights of an average have a sum of 0")
    return Checkpoint(mean.path, {name: value.to(dtypes[name]) for name, value in mean.state.items()}, mean.about)


def ema_weights(number: int, decay: float) -> list[float]:
    """Return the weights of an exponential moving average over checkpoints, from the oldest to the newest.

    Args:
        number: number of checkpoints.
        decay: the weight of the previous mean when a checkpoint is added, at least 0 and below 1.

    Raises:
        ValueError: for a decay outside this range.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in 0..1 and below 1, got {decay!r}")
    return [decay ** (number - 1), *((1 - decay) * decay ** (number - 1 - index) for index in range(1, number))]


@dataclass(frozen=True)
class Soup:
    """The result of `greedy_soup`.

    Attributes:
        checkpoint: the average.
        chosen: positions of the checkpoints in the average, in the order in which they were added.
        scores: score of each checkpoint alone.
        score: score of the average.
    """

    checkpoint: Checkpoint
    chosen: tuple[int, ...]
    scores: tuple[float, ...]
    score: float


def greedy_soup(
    number: int,
    read: Callable[[Sequence[int]], Iterable[Checkpoint]],
    evaluate: Callable[[Checkpoint], float],
) -> Soup:
    """Average the checkpoints that improve the average (Wortsman et al., Model soups, ICML 2022, recipe 1).

    Checkpoints are tried in descending order of their scores. A checkpoint is added to the average, with equal weights,
    if the score of the average does not fall. Because checkpoints are chosen on the validation set, the score on it is
    slightly optimistic.

    Args:
        number: number of checkpoints.
        read: returns the checkpoints at some positions, which need not be in memory at the same time.
        evaluate: returns the score of a checkpoint; higher is better.

    Raises:
        CheckpointError: as for `average`.
        ValueError: when there are no checkpoints.
    """
    if number < 1:
        raise ValueError("there is no checkpoint to average")
    scores = [evaluate(checkpoint) for checkpoint in read(range(number))]
    order = sorted(range(number), key=lambda index: -scores[index])
    chosen = [order[0]]
    soup, score = average(read(chosen)), scores[order[0]]
    for index in order[1:]:
        candidate = average(read([*chosen, index]))
        candidate_score = evaluate(candidate)
        if candidate_score >= score:
            chosen.append(index)
            soup, score = candidate, candidate_score
    return Soup(soup, tuple(chosen), tuple(scores), score)


def _accumulator(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value.clone()
    return value.to(torch.promote_types(value.dtype, torch.float32), copy=True)


def _require_alike(first: Checkpoint, checkpoint: Checkpoint, dtypes: Mapping[str, torch.dtype]) -> None:
    """Raise an error if a checkpoint cannot be averaged with the first."""
    where = f"{checkpoint.path} and {first.path}"
    names = sorted(first.state.keys() ^ checkpoint.state.keys())
    if names:
        raise CheckpointError(f"{where} are not of the same model: only one of them has {few(names)}")
    shapes = [
        f"{name}: {tuple(value.shape)} and {tuple(first.state[name].shape)}"
        for name, value in checkpoint.state.items()
        if value.shape != first.state[name].shape
    ]
    if shapes:
        raise CheckpointError(f"{where} differ in shapes: {few(shapes)}")
    kinds = [
        f"{name}: {str(value.dtype)[6:]} and {str(dtypes[name])[6:]}"
        for name, value in checkpoint.state.items()
        if value.dtype != dtypes[name]
    ]
    if kinds:
        raise CheckpointError(f"{where} differ in dtypes: {few(kinds)}")
    unequal = [
        name
        for name, value in checkpoint.state.items()
        if not value.is_floating_point() and not name.endswith(COUNTER) and not torch.equal(value, first.state[name])
    ]
    if unequal:
        raise CheckpointError(f"{where} differ in tensors that have no mean: {few(unequal)}")


def _add(mean: dict[str, Tensor], state: Mapping[str, Tensor], weight: float) -> None:
    """Move the mean towards a checkpoint, in place. Tensors that are equal remain unchanged to the last bit."""
    for name, value in state.items():
        if value.is_floating_point():
            mean[name].lerp_(value.to(mean[name].dtype), weight)
        elif name.endswith(COUNTER):
            mean[name] = torch.maximum(mean[name], value)
