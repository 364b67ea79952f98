"""Parameter groups and the optimizer.

Differs from detectron2's `get_default_optimizer_params` in the number of groups: one per distinct setting,
not one per parameter. An optimizer runs its kernels once per group, so hundreds of groups make a step slow.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

NORM_LAYERS = tuple(
    getattr(nn, name)
    for name in (
        "BatchNorm1d",
        "BatchNorm2d",
        "BatchNorm3d",
        "SyncBatchNorm",
        "GroupNorm",
        "InstanceNorm1d",
        "InstanceNorm2d",
        "InstanceNorm3d",
        "LayerNorm",
        "RMSNorm",
    )
    if hasattr(nn, name)
)

BACKBONE = r"(^|\.)backbone\."


def get_param_groups(
    model: nn.Module,
    *,
    base_lr: float | None = None,
    backbone_lr_factor: float = 1.0,
    weight_decay_norm: float | None = None,
    lr_factors: Mapping[str, float] | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
) -> list[dict[str, Any]]:
    """The trainable parameters of `model` in one group per distinct learning rate and weight decay.

    Frozen parameters are left out, shared ones occur once. Groups come in the order of their first parameter.

    Args:
        model: the model, not wrapped.
        base_lr: the learning rate that the factors multiply. It may be None (the optimizer's own) when no
            factor is given.
        backbone_lr_factor: factor of the parameters below a module named `backbone`.
        weight_decay_norm: weight decay of normalisation layers; None: the optimizer's, as for all others.
        lr_factors: regular expression -> factor, searched in parameter names
            (`backbone.layer1.0.conv1.weight`). Where several match, the last one counts; where one matches,
            `backbone_lr_factor` does not count.
        lr_factor_func: parameter name -> factor, on top of the other factors (detectron2's argument).

    Returns:
        `{"params": [...]}` with `lr` and `weight_decay` where they are not left to the optimizer.

    Raises:
        ValueError: when an expression matches no parameter, a factor is negative, factors come without
            `base_lr`, or nothing is trainable.
    """
    patterns = {**({BACKBONE: backbone_lr_factor} if backbone_lr_factor != 1 else {}), **(lr_factors or {})}
    has_factors = bool(patterns) or lr_factor_func is not None
    if has_factors and base_lr is None:
        raise ValueError("learning rate factors need base_lr, the learning rate that they multiply")
    _check_patterns(patterns, [name for name, _ in model.named_parameters()])

    groups: dict[tuple[float | None, float | None], dict[str, Any]] = {}
    for name, parameter, is_norm in _trainable(model):
        lr = base_lr
        if lr is not None:
            factor = 1.0
            for pattern, value in patterns.items():
                if re.search(pattern, name):
                    factor = value
            if lr_factor_func is not None:
                factor *= lr_factor_func(name)
            lr = lr * factor
        weight_decay = weight_decay_norm if is_norm else None
        group = groups.setdefault((lr, weight_decay), {"params": []})
        group["params"].append(parameter)
        group.update({k: v for k, v in (("lr", lr), ("weight_decay", weight_decay)) if v is not None})
    if not groups:
        raise ValueError("the model has no trainable parameter: requires_grad is False everywhere")
    return list(groups.values())


def _check_patterns(patterns: Mapping[str, float], names: list[str]) -> None:
    for pattern, factor in patterns.items():
        if factor < 0:
            raise ValueError(f"the learning rate factor {factor} of {pattern!r} is negative")
        if not any(re.search(pattern, name) for name in names):
            modules = ", ".join(sorted({name.split(".")[0] for name in names}))
            raise ValueError(
                f"the learning rate factor {factor} of {pattern!r} matches no parameter; the model consists "
                f"of: {modules}"
            )


def _trainable(model: nn.Module) -> Iterable[tuple[str, nn.Parameter, bool]]:
    """(name, parameter, whether it belongs to a normalisation layer) of what is trained, each once."""
    seen: set[nn.Parameter] = set()
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield (
                    f"{module_name}.{name}" if module_name else name,
                    parameter,
                    isinstance(module, NORM_LAYERS),
                )


class LayerDecay:
    """A smaller learning rate the earlier a layer of a plain vision transformer comes (Clark et al., ICLR 2020).

    An `lr_factor_func` of `get_param_groups`: `rate` to the power of the layers that follow. What is not of the
    transformer of a backbone comes after its last layer.

    Args:
        rate: the factor from one layer to the one before it, above 0 and at most 1.
        num_layers: blocks of the transformer, whose parameters are called `backbone.*.blocks.N.*`.

    Raises:
        ValueError: for a rate outside its range; when called for a block that there is not.
    """

    def __init__(self, *, rate: float, num_layers: int):
        if not 0 < rate <= 1:
            raise ValueError(f"the rate of a layer decay must be above 0 and at most 1, got {rate}")
        self.rate, self.num_layers = rate, num_layers

    def __call__(self, name: str) -> float:
        """The factor of the parameter `name`."""
        return self.rate ** (self.num_layers - self._layer(name))

    def _layer(self, name: str) -> int:
        if not re.search(BACKBONE, name):
            return self.num_layers
        if re.search(r"\.(pos_embed$|patch_embed\.)", name):
            return -1
        block = re.search(r"\.blocks\.(\d+)\.", name)
        if block is None:
            return self.num_layers
        if int(block[1]) >= self.num_layers:
            raise ValueError(f"a layer decay over num_layers={self.num_layers} blocks was asked for {name}")
        return int(block[1])


def adamw(
    params: Iterable[Any],
    *,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-4,
    amsgrad: bool = False,
    fused: bool | None = None,
) -> torch.optim.AdamW:
    """`torch.optim.AdamW` with its fastest kernel for these parameters; the defaults are DETR's.

    Args:
        params: parameters or parameter groups.
        lr: learning rate of the groups that have none of their own.
        betas: decay of the running means of gradient and squared gradient.
        eps: added to the denominator.
        weight_decay: of the groups that have none of their own.
        amsgrad: keep the largest second moment (Reddi et al., ICLR 2018).
        fused: use the kernel that updates all parameters at once; None: where there is one (float parameters
            on a CPU or a CUDA GPU). Without it torch chooses between its foreach kernels and a plain loop.
    """
    params = list(params)
    if fused is None:
        tensors = [p for one in params for p in (one["params"] if isinstance(one, dict) else [one])]
        fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in tensors)
    return torch.optim.AdamW(
        params,
        lr=lr,
        betas=(betas[0], betas[1]),
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        fused=fused or None,
    )
