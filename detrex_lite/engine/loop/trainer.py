"""The training loop and its hook points.

A step computes the losses of `accumulate_steps` batches and accumulates their gradients, clips the gradients, checks on
all processes that losses and gradients are finite, and runs the optimizer. Everything else (learning rate, logs,
checkpoints, evaluation) is a `Hook`.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ... import distributed
from ...devices import is_out_of_memory
from ...errors import NonFiniteError
from ...phases import PhaseTimes, phase
from ...scalars import Scalars
from ..memory_full import training_memory_full
from ..processes.sharding import gradients_stay_here, is_sharded, part_here, whole

logger = logging.getLogger(__name__)

Batch = list[dict[str, Any]]


class Hook:
    """Base class of callbacks around training; each method except `close` gets the trainer.

    The order is before_train, then before_step and after_step for each step, then after_train. `close` is called last,
    even when training ends with an error.
    """

    def before_train(self, trainer: "Trainer") -> None: ...

    def after_train(self, trainer: "Trainer") -> None: ...

    def before_step(self, trainer: "Trainer") -> None: ...

    def after_step(self, trainer: "Trainer") -> None: ...

    def close(self) -> None: ...


class Trainer:
    """Trains a model from a loader, step by step, up to `max_iter` steps.

    Args:
        model: takes a list of dicts, returns name -> weighted loss; possibly a DistributedDataParallel or sharded.
        optimizer: over the model's parameters.
        data_loader: yields batches, and is iterated again when it ends. When its `batch_sampler` has `start_batch`, a
            resumed run sees the data that an uninterrupted run would have seen.
        max_iter: the number of optimizer steps.
        hooks: called in this order.
        accumulate_steps: batches per step; their losses are averaged.
        clip_grad: arguments of `clip_grad_norm_` (`max_norm`, `norm_type`); None disables clipping.
        amp_dtype: `torch.bfloat16` or `torch.float16` for mixed precision; None disables it.

    Attributes:
        iteration: the number of completed steps.
        batches: pairs (images per batch over all processes, or 0 when not known; number of batches) that count the data
            consumed so far. Another pair is added when a run is resumed with another batch size.
        losses: name -> loss of the last step, averaged over its batches; on the device.
        scalars: the values passed to `detrex_lite.log_scalar` in the last step; hooks add values by
            `trainer.scalars.add`.
        grad_norm: gradient norm of the last step before clipping, on the device; None without clipping.
        num_images: the number of images that this process saw in the last step.
        step_seconds, data_seconds: the duration of the last step, and the part of it spent waiting for data.
        phases: the durations of forward passes, matching (a part of them), backward passes and the optimizer.
        stop_requested: the number of the signal that asked this process to end training, or 0.
        stop_signal: the same for all processes together, as they agreed on it in the last step.
        results: the results of the last evaluation.
        ended_early: whether training ends before `max_iter`; see `end_early`.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        data_loader: Iterable[Batch],
        max_iter: int,
        hooks: Sequence[Hook] = (),
        accumulate_steps: int = 1,
        clip_grad: dict[str, Any] | None = None,
        amp_dtype: torch.dtype | None = None,
    ):
        self.model = model
        self.optimizer = optimizer
        self.data_loader = data_loader
        self.max_iter = max_iter
        self.hooks = list(hooks)
        self.accumulate_steps = accumulate_steps
        self.clip_grad = clip_grad
        self.amp_dtype = amp_dtype
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.device = self.parameters[0].device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=amp_dtype is torch.float16)

        self.iteration = 0
        self.start_iteration = 0
        self.batches: list[tuple[int, int]] = []
        self.losses: dict[str, Tensor] = {}
        self.scalars = Scalars()
        self.grad_norm: Tensor | None = None
        self.num_images = 0
        self.step_seconds = self.data_seconds = 0.0
        self.phases = PhaseTimes(self.device)
        self.stop_requested = self.stop_signal = 0
        self.results: dict[str, dict[str, float]] = {}
        self.ended_early = False
        # Called when the loader has started. Starting it may draw random numbers, so a resumed run restores its random
        # states afterwards.
        self.on_loader_started: Callable[[], None] | None = None
        self._batch: Batch = []  # the last batch
        self._file_names: list[str] = []
        self._without_gradient: set[str] = set()  # losses that have been reported

    def train(self) -> None:
        """Run the steps from `iteration` to `max_iter`, or until a hook calls `end_early`.

        Raises:
            NonFiniteError: on every process, at the first loss or gradient norm that is not finite, before the weights
                change.
            MemoryFullError: on the process that runs out of memory in a step.
        """
        self.start_iteration = self.iteration
        try:
            for hook in self.hooks:
                hook.before_train(self)
            batches = self._start_loader()
            self.model.train()
            while self.iteration < self.max_iter and not self.ended_early:
                self.scalars = Scalars()
                for hook in self.hooks:
                    hook.before_step(self)
                with self.phases.measure():
                    self._step_or_explain(batches)
                self.iteration += 1
                for hook in self.hooks:
                    hook.after_step(self)
            for hook in self.hooks:
                hook.after_train(self)
        finally:
            for hook in reversed(self.hooks):
                hook.close()

    def end_early(self) -> None:
        """Make the current step the last one. Hooks must call this on every process; `after_train` still follows."""
        self.ended_early = True

    def _start_loader(self) -> Iterator[Batch]:
        if self.iteration >= self.max_iter:
            return iter(())
        sampler = getattr(self.data_loader, "batch_sampler", None)
        size = getattr(sampler, "batch_size", 0)
        if not self.batches and self.iteration > 0:
            self.batches = [(size, self.iteration * self.accumulate_steps)]
        if sampler is not None and hasattr(sampler, "start_batch"):
            sampler.first_sizes = [(earlier or size, number) for earlier, number in self.batches]
            sampler.start_batch = sum(number for _, number in self.batches)
        elif self.iteration > 0:
            logger.warning("The training loader cannot be set to a position: the data starts from the beginning.")
        if not self.batches or self.batches[-1][0] != size:
            self.batches.append((size, 0))
        batches = _endless(self.data_loader)
        if self.on_loader_started is not None:
            self.on_loader_started()
        return batches

    def _step_or_explain(self, batches: Iterator[Batch]) -> None:
        try:
            self.step(batches)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise training_memory_full(
                error,
                iteration=self.iteration + 1,
                batch=self._batch,
                model=self.model,
                device=self.device,
                has_amp=self.amp_dtype is not None,
                accumulate_steps=self.accumulate_steps,
            ) from error

    def step(self, batches: Iterator[Batch]) -> None:
        """Do one optimizer step on the next batches, without calling hooks or counting the step."""
        start = time.perf_counter()
        self.data_seconds, self.num_images, self._file_names = 0.0, 0, []
        all_losses: list[dict[str, Tensor]] = []
        all_names: list[list[str]] = []
        for number in range(1, self.accumulate_steps + 1):
            batch = self._fetch(batches)
            is_last = number == self.accumulate_steps
            with contextlib.nullcontext() if is_last else self._without_gradient_exchange():
                with phase("forward"):
                    losses = self._forward(batch)
                    total = torch.stack(list(losses.values())).sum()
                with phase("backward"):
                    self.scaler.scale(total / self.accumulate_steps).backward()
            all_losses.append({name: value.detach() for name, value in losses.items()})
            all_names.append(_file_names(batch))
        with phase("optimizer"):
            self._clip_gradients()
            self._require_finite(all_losses, all_names)
            self._update_weights()
        self.losses = _mean(all_losses)
        self.step_seconds = time.perf_counter() - start

    def _fetch(self, batches: Iterator[Batch]) -> Batch:
        start = time.perf_counter()
        batch = self._batch = next(batches)
        size, number = self.batches[-1]
        self.batches[-1] = size, number + 1
        self.data_seconds += time.perf_counter() - start
        self.num_images += len(batch)
        self._file_names += _file_names(batch)
        return batch

    def _forward(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the losses of one batch; returns when all processes have theirs."""
        losses: dict[str, Tensor] = {}
        scalars = Scalars()
        error = None
        autocast = torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)
        try:
            with autocast, scalars.listen():
                losses = self.model(batch)
            self._require_losses(losses)
        except FloatingPointError as caught:
            error = caught
        self._require_no_error(error, _file_names(batch))
        self.scalars.include(scalars)
        return losses

    def _require_losses(self, losses: Any) -> None:
        """Raise a ValueError for values that are not losses, and warn once of each loss without a gradient."""
        if not isinstance(losses, dict) or not losses:
            name = type(self.model).__name__
            raise ValueError(f"in training a model returns a dict of losses; {name} gave {losses!r:.80}")
        for name, loss in losses.items():
            is_tensor = isinstance(loss, Tensor)
            if not is_tensor or loss.dim() > 0 or not loss.is_floating_point() or "loss" not in str(name):
                description = (
                    f"{loss.dtype} of shape {tuple(loss.shape)}" if is_tensor else f"{type(loss).__name__} {loss!r:.40}"
                )
                raise ValueError(
                    f"the model returned {name!r} ({description}) among its losses, which are added up. A loss is a "
                    "floating-point tensor of shape () with 'loss' in its name; a number for the log only is given to "
                    "detrex_lite.log_scalar(name, value), anywhere in the model"
                )
            if not loss.requires_grad and name not in self._without_gradient:
                self._without_gradient.add(name)
                logger.warning(
                    "Loss %r has no gradient, so it trains nothing but counts in total_loss. Are all weights that it "
                    "depends on frozen? A number for the log only is given to detrex_lite.log_scalar(name, value).",
                    name,
                )

    def _without_gradient_exchange(self) -> contextlib.AbstractContextManager[None]:
        if is_sharded(self.model):
            return gradients_stay_here(self.model)
        no_sync = getattr(self.model, "no_sync", None)
        return contextlib.nullcontext() if no_sync is None else no_sync()

    def _clip_gradients(self) -> None:
        if self.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            self.grad_norm = whole(torch.nn.utils.clip_grad_norm_(self.parameters, **self.clip_grad).detach())

    def _update_weights(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _require_no_error(self, error: FloatingPointError | None, file_names: list[str]) -> None:
        """Raise on all processes when the model has raised on one of them.

        This is called before the backward pass, in which processes wait for each other. The processes exchange the flag
        on their CPUs: a transfer from the device would wait for the forward pass, and leave the device idle until the
        backward pass is launched.
        """
        if not distributed.any_process(error is not None):
            return
        reason = f"training stopped at iteration {self.iteration + 1}: {error}"
        message = "" if error is None else self._describe(reason, file_names)
        raise NonFiniteError("\n".join(filter(None, distributed.all_gather_objects(message)))) from error

    def _require_finite(self, all_losses: list[dict[str, Tensor]], all_names: list[list[str]]) -> None:
        """Raise on all processes when a loss or the gradient is not finite on one of them.

        This is called when the backward pass has been launched, and before the weights change. It all-reduces two
        values: whether something is not finite, and the requested stop signal. This is the only transfer from the
        device in each step.
        """
        watched = [value.float() for losses in all_losses for value in losses.values()]
        watched += [norm.float() for norm in self._watched_gradient()]
        failed = 1 - torch.isfinite(torch.stack(watched)).all().float()
        flags = torch.stack([failed, failed.new_tensor(float(self.stop_requested))])
        if distributed.is_distributed():
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        any_failed, stop_signal = flags.tolist()
        self.stop_signal = int(stop_signal)
        if any_failed:
            message = self._describe_non_finite(all_losses, all_names) if failed.item() else ""
            raise NonFiniteError("\n".join(filter(None, distributed.all_gather_objects(message))))

    def _watched_gradient(self) -> list[Tensor]:
        """Norms of the gradient that must be finite; empty with a loss scaler, which skips such steps itself.

        This is the norm that was used for clipping, or otherwise the norms of the gradient tensors on this process.
        """
        if self.scaler.is_enabled():
            return []
        if self.grad_norm is not None:
            return [self.grad_norm]
        gradients = [part_here(p.grad) for p in self.parameters if p.grad is not None]
        gradients = [gradient for gradient in gradients if gradient.numel()]  # a shard may be empty
        return list(torch._foreach_norm(gradients)) if gradients else []

    def _describe_non_finite(self, all_losses: list[dict[str, Tensor]], all_names: list[list[str]]) -> str:
        iteration = self.iteration + 1
        for losses, file_names in zip(all_losses, all_names, strict=True):
            values = {name: float(value) for name, value in losses.items()}
            listed = ", ".join(f"{name}={value}" for name, value in values.items() if not math.isfinite(value))
            if listed:
                return self._describe(f"the loss is not finite at iteration {iteration}: {listed}", file_names)
        worst = max(float(norm) for norm in self._watched_gradient() if not torch.isfinite(norm))
        reason = f"the gradient is not finite at iteration {iteration}: its norm is {worst}"
        return self._describe(reason, self._file_names)

    def _describe(self, reason: str, file_names: list[str]) -> str:
        images = f"; images: {', '.join(file_names)}" if file_names else ""
        advice = "a lower optimizer.lr, train.clip_grad.enabled=True"
        if self.amp_dtype is torch.float16:
            advice += ", train.amp.dtype=bf16"
        return f"{reason}{images}. No checkpoint was written since. Check the images and boxes, or try {advice}"


def _file_names(batch: Batch) -> list[str]:
    return [str(record["file_name"]) for record in batch if "file_name" in record]


def _endless(loader: Iterable[Batch]) -> Iterator[Batch]:
    """The batches of `loader`, which is iterated again when it ends. The first pass has started when this returns."""
    first = iter(loader)

    def batches() -> Iterator[Batch]:
        current = first
        while True:
            empty = True
            for batch in current:
                empty = False
                yield batch
            if empty:
                raise ValueError("the training loader gave no batch: there are no images to train on")
            current = iter(loader)

    return batches()


def _mean(all_losses: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """name -> mean over the batches that have it."""
    if len(all_losses) == 1:
        return all_losses[0]
    names = dict.fromkeys(name for losses in all_losses for name in losses)
    return {name: torch.stack([losses[name] for losses in all_losses if name in losses]).mean() for name in names}
