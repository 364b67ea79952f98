"""Numbers that a model or a hook adds to the training log, in addition to losses.

`log_scalar("gate", gate.mean())` can be called in any module, at any depth. The numbers are not part of any loss. A
trainer collects them; without one, in evaluation and prediction, the call does nothing.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

_current: ContextVar["Scalars | None"] = ContextVar("scalars", default=None)


def log_scalar(name: str, value: Tensor | float) -> None:
    """Write a number to the log line, metrics.jsonl and all other outputs that the losses of a training run go to.

    The written value is the mean over the steps since the last line, the batches of a step and all processes; for a
    name that is logged several times in a step, the mean of all values. Tensors on a GPU are read without
    synchronisation, and `train.compile` includes the call in its graph.

    Args:
        name: any name other than those of losses and of values that are logged already, such as `lr`.
        value: a number, or a tensor with one element on any device, which is copied without its gradient.

    Raises:
        ValueError: when the value is a tensor with several elements. `Trainer` also rejects names that are taken.
    """
    scalars = _current.get()
    if scalars is not None:
        scalars.add(name, value)


class Scalars:
    """Collects the numbers of one step."""

    def __init__(self) -> None:
        self._values: dict[str, list[Tensor | float]] = {}

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Collect the values of `log_scalar` within this context.

        A graph that is compiled in the context depends on the values collected so far: use a new object for each
        context, and `include` it elsewhere.
        """
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def add(self, name: str, value: Tensor | float) -> None:
        """See `log_scalar`."""
        scalar: Tensor | float
        if isinstance(value, Tensor):
            if value.numel() != 1:
                shape = tuple(value.shape)
                raise ValueError(f"log_scalar({name!r}): shape {shape} is not one number; give its mean, for example")
            # The value is copied, because it may be a parameter that changes before it is read.
            scalar = value.detach().reshape(()).to(torch.float32, copy=True)
        else:
            scalar = float(value)
        self._values.setdefault(name, []).append(scalar)

    def include(self, source: "Scalars") -> None:
        """Add the values that another object has collected."""
        for name, values in source._values.items():
            self._values.setdefault(name, []).extend(values)

    def means(self, device: torch.device) -> dict[str, Tensor]:
        """Return the mean of the values of each name, a scalar on `device`, without synchronisation."""
        return {
            name: torch.stack([_on(device, value) for value in values]).mean() for name, values in self._values.items()
        }


def _on(device: torch.device, value: Tensor | float) -> Tensor:
    if isinstance(value, Tensor) and value.device.type == device.type:
        return value.to(device)
    # Filling does not synchronise; copying a number from the CPU would wait for the GPU's queue.
    return torch.full((), float(value), dtype=torch.float32, device=device)
