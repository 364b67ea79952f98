"""Shards a model over the processes by FSDP2: each process holds a shard of the weights, gradients and optimizer state.

Weights are gathered when a layer needs them. Checkpoints hold full tensors under the usual names, so that a sharded run
can be resumed with any number of processes, sharded or not.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ... import distributed

# Backbone blocks with at least this many parameters are gathered and freed one by one. Smaller blocks are gathered with
# the rest of the model, once per step: gathering them separately would cost more time than it saves memory.
UNIT_PARAMETERS = 1_000_000


def shard(model: nn.Module) -> None:
    """Shard the parameters of `model` in place; afterwards they are DTensors, in the same order as before.

    Args:
        model: on its device, with the same weights on all processes.
    """
    # Imported here because torch before 2.6 has no such functions.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP2 does not support other layouts, such as channels_last
    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for unit in reversed(list(_units(model))):  # inner ones first
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _units(model: nn.Module) -> Iterator[nn.Module]:
    """The larger elements of module lists and sequences in the backbone, without containers that are never called."""
    backbone = getattr(model, "backbone", None)
    for module in [] if backbone is None else backbone.modules():
        for child in module if isinstance(module, nn.ModuleList | nn.Sequential) else ():
            if _size(child) >= UNIT_PARAMETERS and not isinstance(child, nn.ModuleList | nn.ModuleDict):
                yield child


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was called for `model`."""
    return any(_is_dtensor(parameter) for parameter in model.parameters())


def _is_dtensor(value: Any) -> bool:
    # DTensor is slow to import, so this checks for its method instead.
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def part_here(tensor: Tensor) -> Tensor:
    """The shard of `tensor` on this process, or all of it when it is not sharded. The result shares its memory."""
    return tensor.to_local() if _is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """The full tensor, gathered from the shards of all processes. Every process must call this."""
    return tensor.full_tensor() if _is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


def gathered(tree: Any) -> Any:
    """A copy of nested dicts and lists in which full tensors on the CPU replace sharded ones.

    Every process must call this. Only the main process gets the values; the others get None in their place, because
    they may lack the memory for a model that had to be sharded.
    """
    return _replaced(tree, _is_dtensor, _gathered)


def _gathered(tensor: Tensor) -> Tensor | None:
    full = whole(tensor)
    return full.cpu() if distributed.is_main_process() else None


def _replaced(tree: Any, is_replaced: Callable[[Any], bool], replace: Callable[[Any], Any]) -> Any:
    if is_replaced(tree):
        return replace(tree)
    if isinstance(tree, dict):
        changed = copy.copy(tree)  # keeps the metadata of a state dict
        for key, value in tree.items():
            changed[key] = _replaced(value, is_replaced, replace)
        return changed
    if isinstance(tree, list | tuple):
        return type(tree)(_replaced(value, is_replaced, replace) for value in tree)
    return tree


def split_like(value: Any, example: Tensor) -> Any:
    """Convert a full tensor to the layout of `example`; when that is sharded, return this process's shard.

    Tensors with a shape other than that of `example`, and values that are not tensors, are returned unchanged.
    """
    if not isinstance(value, Tensor) or value.shape != example.shape:
        return value
    if not _is_dtensor(example):
        # A fused optimizer reads a parameter and its state in storage order and ignores their strides, so the strides
        # must be equal.
        return (
            value if value.stride() == example.stride() else torch.empty_like(example, dtype=value.dtype).copy_(value)
        )
    from torch.distributed.tensor import distribute_tensor

    value = value.to(example.device).contiguous()
    # Every process has the full tensor, so nothing is sent.
    return distribute_tensor(value, example.device_mesh, example.placements, src_data_rank=None)  # type: ignore[attr-defined]


def load_whole(module: nn.Module, state: dict[str, Any]) -> None:
    """`module.load_state_dict(state)` with full tensors, whether or not `module` is sharded.

    Raises:
        RuntimeError: when names or shapes differ.
    """
    current = module.state_dict()
    module.load_state_dict({k: split_like(value, current[k]) if k in current else value for k, value in state.items()})


def split_optimizer_state(stored: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state dict of an optimizer in which each tensor is sharded like its parameter.

    Args:
        stored: the state dict, with full tensors.
        optimizer: the optimizer that will load it.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        index: {name: split_like(value, parameters[index]) for name, value in values.items()}
        if index < len(parameters)
        else values
        for index, values in stored["state"].items()
    }
    return {**stored, "state": state}


@contextlib.contextmanager
def gradients_stay_here(model: nn.Module) -> Iterator[None]:
    """Inside this context, backward passes of a sharded model accumulate gradients without exchanging them."""
    model.set_requires_gradient_sync(False)  # type: ignore[operator]
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)  # type: ignore[operator]


@contextlib.contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Inside this context, every process holds all weights, so that processes may evaluate any number of images."""
    if not is_sharded(model):
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    units: list[Any] = [module for module in model.modules() if isinstance(module, FSDPModule)]
    inner = [
        unit for unit in units if unit is not model
    ]  # the root keeps its weights until the backward pass by default
    for unit in inner:
        unit.set_reshard_after_forward(False, recurse=False)
    for unit in units:
        unit.unshard()
    try:
        yield
    finally:
        for unit in inner:
            unit.set_reshard_after_forward(True, recurse=False)
        for unit in units:
            unit.reshard()


@torch.no_grad()
def take_weights_of_main_process(model: nn.Module) -> None:
    """Copy the parameters and buffers of the main process to all others, whose random initial values differ."""
    if distributed.is_distributed():
        for tensor in (*model.parameters(), *model.buffers()):
            dense = tensor.detach().contiguous()  # collectives do not support channels_last
            dist.broadcast(dense, src=0)
            tensor.copy_(dense)
