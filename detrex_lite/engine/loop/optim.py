"""Parameter groups and the optimizer.

In contrast to detectron2's `get_default_optimizer_params`, which makes one group per parameter, there is one group per
distinct setting. An optimizer runs its kernels once per group, so hundreds of groups make a step slow.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

logger = logging.getLogger(__name__)

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
    weight_decays: Mapping[str, float] | None = None,
    lr_factor_func: Callable[[str], float] | None = None,
) -> list[dict[str, Any]]:
    """The trainable parameters of `model` in one group per distinct learning rate and weight decay.

    Frozen parameters are left out, and shared parameters occur once. Groups are in the order of their first parameters.
    The log says what each expression matched.

    Learning rates and weight decays have separate expressions, so that an expression need not exclude the matches of
    another one. Published recipes that do so contain mistakes: in `^(?=.*backbone)(?!.*norm|bn)` the alternatives are
    `.*norm` and a `bn` at the very start of the name, so that the expression does match `backbone.stem.bn.weight`; the
    intention was `(?!.*(?:norm|bn))`.

    Args:
        model: the model, not wrapped.
        base_lr: the learning rate that the factors multiply. It may be None, for the optimizer's default, when there
            are no factors.
        backbone_lr_factor: factor for the parameters below a module named `backbone`.
        weight_decay_norm: weight decay of normalisation layers; None: the optimizer's default, as for all others.
        lr_factors: regular expression -> factor, searched in parameter names (`backbone.layer1.0.conv1.weight`). If
            several match, the last one is used. A match overrides `backbone_lr_factor`.
        weight_decays: regular expression -> weight decay, searched in parameter names. If several match, the last one
            is used. A match overrides `weight_decay_norm`.
        lr_factor_func: parameter name -> factor, which multiplies the other factors (detectron2's argument).

    Returns:
        `{"params": [...]}`, with `lr` and `weight_decay` unless the optimizer's defaults are used.

    Raises:
        ValueError: when an expression is invalid or matches no parameter, a factor or a weight decay is negative,
            factors are given without `base_lr`, or no parameter is trainable.
    """
    patterns = {**({BACKBONE: backbone_lr_factor} if backbone_lr_factor != 1 else {}), **(lr_factors or {})}
    has_factors = bool(patterns) or lr_factor_func is not None
    if has_factors and base_lr is None:
        raise ValueError("learning rate factors need base_lr, the learning rate that they multiply")
    weight_decays = weight_decays or {}
    named = dict(model.named_parameters())
    _check_patterns("learning rate factor", patterns, named)
    _check_patterns("weight decay", weight_decays, named)

    groups: dict[tuple[float | None, float | None], dict[str, Any]] = {}
    for name, parameter, is_norm in _trainable(model):
        lr = base_lr
        if lr is not None:
            factor = _last_match(patterns, name, 1.0)
            if lr_factor_func is not None:
                factor *= lr_factor_func(name)
            lr = lr * factor
        weight_decay = _last_match(weight_decays, name, weight_decay_norm if is_norm else None)
        group = groups.setdefault((lr, weight_decay), {"params": []})
        group["params"].append(parameter)
        group.update({k: v for k, v in (("lr", lr), ("weight_decay", weight_decay)) if v is not None})
    if not groups:
        raise ValueError("the model has no trainable parameter: requires_grad is False everywhere")
    return list(groups.values())


_Value = TypeVar("_Value")


def _last_match(values: Mapping[str, float], name: str, default: _Value) -> float | _Value:
    """The value of the last expression that matches `name`, or `default`."""
    matching = [value for pattern, value in values.items() if re.search(pattern, name)]
    return matching[-1] if matching else default


def _check_patterns(setting: str, values: Mapping[str, float], parameters: Mapping[str, nn.Parameter]) -> None:
    """Raise a ValueError for negative values and for expressions that match nothing, and log the other matches."""
    for pattern, value in values.items():
        if value < 0:
            raise ValueError(f"the {setting} {value} of {pattern!r} is negative")
        try:
            matched = [name for name in parameters if re.search(pattern, name)]
        except re.error as error:
            raise ValueError(
                f"the {setting} {value} is of {pattern!r}, which is not a regular expression: {error}"
            ) from None
        if not matched:
            modules = ", ".join(sorted({name.split(".")[0] for name in parameters}))
            raise ValueError(
                f"the {setting} {value} of {pattern!r} matches no parameter; the model consists of: {modules}"
            )
        logger.info(
            "The %s %g of %r is for %d tensors with %s parameters, such as %s.",
            setting,
            value,
            pattern,
            len(matched),
            f"{sum(parameters[name].numel() for name in matched):,}",
            matched[0],
        )


def _trainable(model: nn.Module) -> Iterable[tuple[str, nn.Parameter, bool]]:
    """(name, parameter, whether it belongs to a normalisation layer) of each trainable parameter, without repeats."""
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
    """Lowers the learning rate of the earlier layers of a plain vision transformer (Clark et al., ICLR 2020).

    This is an `lr_factor_func` of `get_param_groups`: the factor is `rate` to the power of the number of layers that
    follow. Parameters outside the transformer of a backbone count as following its last layer.

    Args:
        rate: the factor from one layer to the layer before it, above 0 and at most 1.
        num_layers: the number of blocks of the transformer, whose parameters are called `backbone.*.blocks.N.*`.

    Raises:
        ValueError: for a rate outside its range; when called for a block whose index is not below `num_layers`.
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
        if re.search(r"\.(pos_embed$|cls_token$|patch_embed\.)", name):
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
        lr: learning rate of the groups that do not set one.
        betas: decay of the running means of gradient and squared gradient.
        eps: added to the denominator.
        weight_decay: weight decay of the groups that do not set one.
        amsgrad: keep the largest second moment (Reddi et al., ICLR 2018).
        fused: use the kernel that updates all parameters at once; None: when it is available (float parameters
            on a CPU or a CUDA GPU). Without it torch chooses between its foreach kernels and a plain loop.
    """
    params = list(params)
    if fused is None:
        tensors = [p for group in params for p in (group["params"] if isinstance(group, dict) else [group])]
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
