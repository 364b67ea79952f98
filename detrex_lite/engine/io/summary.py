"""The summary that is logged at the start of a run: model, data, device, batch, length and learning rates."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ... import distributed
from ...layers import MultiScaleDeformableAttention
from ...ops.deformable_attention import describe_backend
from ..processes.sharding import is_sharded
from ..settings import Lengths


def describe_run(
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    amp_dtype: torch.dtype | None,
    weights: str,
    datasets: dict[str, Any],
    lengths: Lengths,
    batch_size: int | None,
    accumulate_steps: int,
) -> str:
    """A summary of the run with one line per topic.

    Args:
        model: the model, not wrapped.
        optimizer: the optimizer with its parameter groups.
        device: the device on which the model is trained.
        amp_dtype: the data type of mixed precision; None without mixed precision.
        weights: a description of the initial weights.
        datasets: use ("training", ...) -> data set, or None when it is not known.
        lengths: the lengths of the run.
        batch_size: images per batch over all processes; None when not known.
        accumulate_steps: batches per step.
    """
    rows = [
        ("device", describe_device(device)),
        ("attention", describe_attention(device)),
        *_deformable_attention(model, device, amp_dtype),
        (
            "precision",
            "float32" if amp_dtype is None else f"float32 with {amp_dtype} autocast".replace("torch.", ""),
        ),
        ("model", _describe_model(model)),
        ("weights", weights),
        *((use, _describe_dataset(dataset)) for use, dataset in datasets.items()),
        *_processes(model, batch_size),
        ("batch", _describe_batch(batch_size, accumulate_steps)),
        ("length", _describe_lengths(lengths)),
        *(("learning rate", _describe_group(group, optimizer)) for group in optimizer.param_groups),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def describe_device(device: torch.device) -> str:
    """The device with its name, and the number of processes."""
    if device.type == "cuda":
        name = f"{device} ({torch.cuda.get_device_name(device)})"
    else:
        name = f"{device} ({torch.get_num_threads()} threads)"
    processes = distributed.world_size()
    return name if processes == 1 else f"{name}, {processes} processes"


def describe_attention(device: torch.device) -> str:
    """The kernels that `scaled_dot_product_attention` may choose from on this device."""
    if device.type == "cuda":
        kernels = {
            "flash": torch.backends.cuda.flash_sdp_enabled(),
            "memory-efficient": torch.backends.cuda.mem_efficient_sdp_enabled(),
            "cuDNN": getattr(torch.backends.cuda, "cudnn_sdp_enabled", bool)(),
            "math": torch.backends.cuda.math_sdp_enabled(),
        }
    else:
        kernels = {"flash": device.type == "cpu" and torch.backends.cuda.flash_sdp_enabled(), "math": True}
    names = ", ".join(name for name, enabled in kernels.items() if enabled)
    return f"scaled_dot_product_attention: {names} (torch chooses per call)"


def _deformable_attention(
    model: nn.Module, device: torch.device, amp_dtype: torch.dtype | None
) -> Iterable[tuple[str, str]]:
    """A row for models with deformable attention.

    Raises:
        ValueError: when the requested backend is not available on this device.
    """
    if any(isinstance(module, MultiScaleDeformableAttention) for module in model.modules()):
        yield "deformable attention", describe_backend(device, amp_dtype or torch.float32)


def _describe_model(model: nn.Module) -> str:
    parameters = list(model.parameters())
    trainable = _count(p for p in parameters if p.requires_grad)
    classes = f", {model.num_classes} classes" if hasattr(model, "num_classes") else ""
    return f"{type(model).__name__}, {_count(parameters):,} parameters, {trainable:,} trainable{classes}"


def _describe_dataset(dataset: Any) -> str:
    if dataset is None:
        return "not known: the loader has no data set that can be described"
    text = f"{dataset.name}: {len(dataset):,} images, "
    if dataset.has_annotations:
        text += f"{dataset.num_boxes:,} boxes, {dataset.num_classes} classes"
    else:
        text += f"no annotations, {dataset.num_classes} classes"
    dropped = {reason: count for reason, count in dataset.dropped.items() if count}
    if dropped:
        text += "; boxes left out: " + ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    if dataset.clipped:
        text += f"; {dataset.clipped} clipped to their image"
    return text


def _processes(model: nn.Module, batch_size: int | None) -> Iterable[tuple[str, str]]:
    """A row that says how several processes share the work, and that the schedule does not change."""
    processes = distributed.world_size()
    if processes == 1:
        return
    strategy = "weights in shards (FSDP2)" if is_sharded(model) else "gradients averaged (DistributedDataParallel)"
    text = f"{processes} by {torch.distributed.get_backend()}, {strategy}; "
    if batch_size is None:
        yield "processes", text + "each loads batches of its own"
        return
    yield (
        "processes",
        f"{text}each takes {batch_size // processes} of the {batch_size} images of a batch, so that learning rate, "
        "steps and periods are those of one process",
    )


def _describe_batch(batch_size: int | None, accumulate_steps: int) -> str:
    if batch_size is None:
        return f"{accumulate_steps} batch{'es' * (accumulate_steps > 1)} a step"
    processes = distributed.world_size()
    per_process = batch_size // processes
    return (
        f"{per_process} image{'s' * (per_process != 1)} x {processes} process{'es' * (processes > 1)} x "
        f"{accumulate_steps} batch{'es' * (accumulate_steps > 1)} = {batch_size * accumulate_steps} images a step"
    )


def _describe_lengths(lengths: Lengths) -> str:
    def epochs(steps: int) -> str:
        return "" if lengths.epoch is None else f" = {steps / lengths.epoch:.4g} epochs"

    def every(steps: int) -> str:
        return f"every {steps:,} steps{epochs(steps)} and " if steps and steps < lengths.max_iter else ""

    return (
        f"{lengths.max_iter:,} steps{epochs(lengths.max_iter)}; "
        f"checkpoint {every(lengths.checkpoint_period)}at the end, "
        f"evaluation {every(lengths.eval_period)}at the end"
    )


def _describe_group(group: dict[str, Any], optimizer: torch.optim.Optimizer) -> str:
    return (
        f"{group.get('initial_lr', group['lr']):g}, weight decay {group.get('weight_decay', 0):g}: "
        f"{_count(group['params']):,} parameters ({type(optimizer).__name__})"
    )


def _count(parameters: Iterable[torch.Tensor]) -> int:
    return sum(p.numel() for p in parameters)
