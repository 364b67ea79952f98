"""Several evaluators of the same outputs."""

from collections.abc import Sequence
from typing import Any


class CombinedEvaluator:
    """Passes each output to several evaluators, for example of boxes and masks and of panoptic segmentations.

    Args:
        evaluators: objects with `reset`, `process` and `evaluate` that return groups of metrics with different names.

    Raises:
        ValueError: without evaluators.
    """

    def __init__(self, *, evaluators: Sequence[Any]):
        if not evaluators:
            raise ValueError("a CombinedEvaluator needs at least one evaluator")
        self.evaluators = list(evaluators)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics that `evaluate` can return, as group/name. Empty when an evaluator does not provide them."""
        names = [tuple(getattr(evaluator, "metric_names", ())) for evaluator in self.evaluators]
        return tuple(name for part in names for name in part) if all(names) else ()

    @property
    def analyses(self) -> dict[str, Any]:
        """What is wrong with boxes and masks, by the first evaluator that has looked for it; else empty."""
        return next((one.analyses for one in self.evaluators if getattr(one, "analyses", None)), {})

    def reset(self) -> None:
        """Discard all outputs."""
        for evaluator in self.evaluators:
            evaluator.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Pass the outputs of one batch to all evaluators."""
        for evaluator in self.evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Return the metrics of all evaluators.

        Raises:
            ValueError: when two evaluators return groups with the same name.
        """
        results: dict[str, dict[str, float]] = {}
        for evaluator in self.evaluators:
            for group, metrics in (evaluator.evaluate() or {}).items():
                if group in results:
                    raise ValueError(f"two evaluators return metrics called {group!r}: remove one of them")
                results[group] = metrics
        return results
