"""Numbers that a model or a hook wants in the log of a training, beside its losses.

`log_scalar("gate", gate.mean())` may stand in any module, at any depth. The numbers take part in no loss; who trains
collects them, and where nobody does, in evaluation and prediction, nothing happens.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

_current: ContextVar["Scalars | None"] = ContextVar("scalars", default=None)


def log_scalar(name: str, value: Tensor | float) -> None:
    """Write a number to the log line, metrics.jsonl and all other places that losses of a training go to.

    They get its mean over the steps since the last line, the batches of a step and all processes; of a name that is
    logged several times in a step, the mean of all values. Reading a tensor on a GPU waits for nothing, and
    `train.compile` has it in its graph.

    Args:
        name: any but those of losses and of what the log has already, such as `lr`.
        value: a number, or a tensor of one number on any device, of which a copy is kept without its gradient.

    Raises:
        ValueError: when the value is a tensor of several numbers. `Trainer` also refuses names that are taken.
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
        """Inside, `log_scalar` writes here.

        What is compiled inside depends on what is here already: listen with an empty one, and `include` it elsewhere.
        """
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def add(self, name: str, value: Tensor | float) -> None:
        """See `log_scalar`."""
        kept: Tensor | float
        if isinstance(value, Tensor):
            if value.numel() != 1:
                shape = tuple(value.shape)
                raise ValueError(f"log_scalar({name!r}): shape {shape} is not one number; give its mean, for example")
            # A copy: the value may be a parameter, which has changed when it is read.
            kept = value.detach().reshape(()).to(torch.float32, copy=True)
        else:
            kept = float(value)
        self._values.setdefault(name, []).append(kept)

    def include(self, other: "Scalars") -> None:
        """Take what another one has collected."""
        for name, values in other._values.items():
            self._values.setdefault(name, []).extend(values)

    def means(self, device: torch.device) -> dict[str, Tensor]:
        """name -> mean of its values, a scalar on `device`; it is not waited for."""
        return {
            name: torch.stack([_on(device, value) for value in values]).mean() for name, values in self._values.items()
        }


def _on(device: torch.device, value: Tensor | float) -> Tensor:
    if isinstance(value, Tensor) and value.device.type == device.type:
        return value.to(device)
    # Filling waits for nothing; copying a number from the CPU waits for all that a GPU has to do.
    return torch.full((), float(value), dtype=torch.float32, device=device)
