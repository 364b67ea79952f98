"""Sharding a model over the processes by FSDP2: each keeps a part of the weights, gradients and optimizer state.

Weights are gathered where a layer needs them. Checkpoints hold whole tensors under the usual names: a sharded run goes
on with any number of processes, sharded or not.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ... import distributed

# Blocks of the backbone with at least so many parameters are gathered and let go one by one. Smaller ones stay with the
# rest of the model, which is gathered once a step: their messages would cost more than their memory.
UNIT_PARAMETERS = 1_000_000


def shard(model: nn.Module) -> None:
    """Shard the parameters of `model` in place; they are DTensors from here on, in the order of before.

    Args:
        model: on its device, with the same weights on all processes.
    """
    # Here, and not above: torch before 2.6 has no such functions.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for parameter in model.parameters():
        parameter.data = parameter.data.contiguous()  # FSDP2 takes no other layout, such as channels_last
    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    for unit in reversed(list(_units(model))):  # inner ones first
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _units(model: nn.Module) -> Iterator[nn.Module]:
    """The larger elements of lists and sequences in the backbone, but for lists, which are never called themselves."""
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
    # Importing DTensor takes a while, and without it there are none.
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def part_here(tensor: Tensor) -> Tensor:
    """The part of `tensor` that is on this process: all of it when it is not sharded. Shares its memory."""
    return tensor.to_local() if _is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """`tensor` put together from the parts of all processes, each of which must call this."""
    return tensor.full_tensor() if _is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


def gathered(tree: Any) -> Any:
    """A copy of nested dicts and lists with whole tensors on the CPU in the place of sharded ones.

    Every process must call this. Only the main one gets the values: others would have no room for a model that had to
    be sharded, and get None in their place.
    """
    return _replaced(tree, _is_dtensor, _gathered)


def _gathered(tensor: Tensor) -> Tensor | None:
    full = whole(tensor)
    return full.cpu() if distributed.is_main_process() else None


def _replaced(tree: Any, wanted: Callable[[Any], bool], replace: Callable[[Any], Any]) -> Any:
    if wanted(tree):
        return replace(tree)
    if isinstance(tree, dict):
        changed = copy.copy(tree)  # of a state dict with its metadata
        for key, value in tree.items():
            changed[key] = _replaced(value, wanted, replace)
        return changed
    if isinstance(tree, list | tuple):
        return type(tree)(_replaced(value, wanted, replace) for value in tree)
    return tree


def split_like(value: Any, example: Tensor) -> Any:
    """A whole tensor in the manner of `example`: in its layout, and if that is sharded, this process's part of it.

    Tensors of another shape than `example`, and what is no tensor, come back as they are.
    """
    if not isinstance(value, Tensor) or value.shape != example.shape:
        return value
    if not _is_dtensor(example):
        # A fused optimizer walks through a parameter and its state side by side, whatever their strides are.
        return (
            value if value.stride() == example.stride() else torch.empty_like(example, dtype=value.dtype).copy_(value)
        )
    from torch.distributed.tensor import distribute_tensor

    value = value.to(example.device).contiguous()
    # Every process has read the whole: nothing is sent.
    return distribute_tensor(value, example.device_mesh, example.placements, src_data_rank=None)  # type: ignore[attr-defined]


def load_whole(module: nn.Module, state: dict[str, Any]) -> None:
    """`module.load_state_dict(state)` with whole tensors, whether or not `module` is sharded.

    Raises:
        RuntimeError: when names or shapes differ.
    """
    own = module.state_dict()
    module.load_state_dict({k: split_like(value, own[k]) if k in own else value for k, value in state.items()})


def split_optimizer_state(stored: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state dict of an optimizer with each parameter's tensors split as that parameter is.

    Args:
        stored: with whole tensors.
        optimizer: that `stored` is for.
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
    """Inside, backward passes of a sharded model add up gradients without exchanging them."""
    model.set_requires_gradient_sync(False)  # type: ignore[operator]
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)  # type: ignore[operator]


@contextlib.contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Inside, every process has all weights, so that each can evaluate images of its own, as many as it likes."""
    if not is_sharded(model):
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    units: list[Any] = [module for module in model.modules() if isinstance(module, FSDPModule)]
    inner = [unit for unit in units if unit is not model]  # the root keeps its weights until the backward pass anyway
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
    """Copy parameters and buffers of the main process to all others, whose random initial values differ."""
    if distributed.is_distributed():
        for tensor in (*model.parameters(), *model.buffers()):
            dense = tensor.detach().contiguous()  # collectives refuse channels_last
            dist.broadcast(dense, src=0)
            tensor.copy_(dense)
