"""Several evaluators of the same outputs."""

from collections.abc import Sequence
from typing import Any


class CombinedEvaluator:
    """Shows each output to several evaluators: boxes and masks to one, panoptic segmentations to another.

    Args:
        evaluators: have `reset`, `process` and `evaluate`, and give groups of metrics with different names.

    Raises:
        ValueError: when there are none.
    """

    def __init__(self, *, evaluators: Sequence[Any]):
        if not evaluators:
            raise ValueError("a CombinedEvaluator needs at least one evaluator")
        self.evaluators = list(evaluators)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What `evaluate` can give, as group/name. Empty when an evaluator does not tell."""
        names = [tuple(getattr(one, "metric_names", ())) for one in self.evaluators]
        return tuple(name for part in names for name in part) if all(names) else ()

    @property
    def analysis(self) -> Any:
        """What is wrong with the boxes, of the first evaluator that has looked for it; else None."""
        return next((one.analysis for one in self.evaluators if getattr(one, "analysis", None) is not None), None)

    def reset(self) -> None:
        """Forget all outputs."""
        for one in self.evaluators:
            one.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Show the outputs of one batch to all."""
        for one in self.evaluators:
            one.process(inputs, outputs)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The metrics of all.

        Raises:
            ValueError: when two evaluators give a group of one name.
        """
        results: dict[str, dict[str, float]] = {}
        for one in self.evaluators:
            for group, metrics in (one.evaluate() or {}).items():
                if group in results:
                    raise ValueError(f"two evaluators give metrics called {group!r}: leave one of them out")
                results[group] = metrics
        return results
