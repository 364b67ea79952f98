"""Error messages for full memory, with numbers and advice."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..layers import BaseTransformerLayer
from .memory import free_memory, system_sizes

GIB = 2**30


class MemoryFullError(RuntimeError):
    """A computation ran out of memory on a GPU or on the CPU."""


def training_memory_full(
    error: BaseException,
    *,
    iteration: int,
    batch: Sequence[dict[str, Any]],
    model: nn.Module,
    device: torch.device,
    has_amp: bool,
    accumulate_steps: int,
) -> MemoryFullError:
    """The error for a training step that ran out of memory, with numbers and the remedies that are not yet in use.

    Args:
        error: the error that torch raised.
        iteration: the number of the step, from 1.
        batch: the batch of this process.
        model: the model, which shows whether activations are recomputed.
        device: the device of the model.
        has_amp: whether mixed precision is enabled.
        accumulate_steps: batches per step.
    """
    advice = []
    if not has_amp:
        advice.append("train.amp.enabled=True: activations in 16 bits take about half the memory")
    if len(batch) > 1:
        advice.append(
            "half the dataloader.train.total_batch_size with "
            f"train.accumulate_steps={2 * accumulate_steps}: steps of as many images, in smaller parts"
        )
    layers = [module for module in model.modules() if isinstance(module, BaseTransformerLayer)]
    if layers and not any(layer.activation_checkpointing for layer in layers):
        advice.append(
            "train.activation_checkpointing=True: activations in transformer layers are recomputed in the backward "
            "pass instead of being stored, which costs time"
        )
    advice += [
        "smaller images (dataloader.train.mapper.augmentation), or a smaller model",
        "`detrex-lite train ... --find-batch-size` measures the largest batch that fits",
    ]
    situation = f"at iteration {iteration}, with {describe_batch(batch)} in a batch of this process"
    return _memory_full(error, device, situation, advice)


def memory_full(error: BaseException, device: torch.device) -> MemoryFullError:
    """The error for computations other than a training step, such as an evaluation."""
    advice = [
        "dataloader.test.batch_size=1, when it was an evaluation",
        "smaller images (dataloader.test.mapper.augmentation), or a smaller model",
        "other programs that use this device: `nvidia-smi` lists them"
        if device.type == "cuda"
        else "other programs that use the memory, and fewer dataloader.train.num_workers",
    ]
    return _memory_full(error, device, "outside of a training step", advice)


def _memory_full(error: BaseException, device: torch.device, situation: str, advice: Sequence[str]) -> MemoryFullError:
    listed = "".join(f"\n  - {line}" for line in advice)
    return MemoryFullError(
        f"out of memory {situation}\n{describe_memory(device)}{_describe_request(error)}\n"
        f"What helps, one or more of:{listed}"
    )


def describe_batch(batch: Sequence[dict[str, Any]]) -> str:
    """`"4 images of up to 800x1333 pixels (height x width) and 31 objects"`."""
    heights, widths = zip(*((sample["image"].shape[-2:]) for sample in batch), strict=True) if batch else ((0,), (0,))
    objects = sum(len(sample["instances"]) for sample in batch if "instances" in sample)
    count = f"{len(batch)} image{'s' * (len(batch) != 1)}"
    return f"{count} of up to {max(heights)}x{max(widths)} pixels (height x width) and {objects} objects"


def _describe_request(error: BaseException) -> str:
    """The size of the failed allocation, from torch's message; empty when the message does not contain it."""
    request = re.search(r"tried to allocate ([\d.]+ ?\w+)", str(error), flags=re.IGNORECASE)
    if request is None:
        return ""
    size = request[1]
    if in_bytes := re.fullmatch(r"(\d+) bytes", size):
        size = f"{int(in_bytes[1]) / GIB:.2f} GiB"
    return f"; {size} more were asked for"


def describe_memory(device: torch.device) -> str:
    """The memory of a device: the total, the use or peak use of this process, and what is free."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        peak = torch.cuda.max_memory_allocated(device)
        return (
            f"{torch.cuda.get_device_name(device)} ({device}) has {total / GIB:.1f} GiB; this process used up to "
            f"{peak / GIB:.1f} GiB, {free / GIB:.1f} GiB are free"
        )
    sizes = {
        "the machine has": system_sizes("/proc/meminfo").get("MemTotal"),
        "this process uses": system_sizes("/proc/self/status").get("VmRSS"),
        "free are": free_memory(str(device)),
    }
    return ", ".join(f"{label} {size / GIB:.1f} GiB" for label, size in sizes.items() if size is not None)
