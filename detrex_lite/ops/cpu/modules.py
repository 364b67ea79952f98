"""Accelerated blocks for a CPU: subclasses with the same parameters and results as the plain blocks.

Each falls back to its base class where the fast implementation does not apply: on other devices, while torch.compile
traces it and, except for dropout, under autocast.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import FFN, ConditionalCrossAttention, MultiheadAttention
from .chunked_mlp import chunked_mlp
from .dropout import VALUES, drop_threshold, dropout
from .linear import linear

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_untouched(module: nn.Module) -> bool:
    """Whether calling `module` runs nothing but the `forward` of its class on its registered parameters.

    This is false when the module has hooks (which pruning and weight_norm use) or parametrizations, or when its
    `forward` was replaced or compiled.
    """
    state = vars(module)
    return (
        not any(state.get(name) for name in _HOOKS)
        and "parametrizations" not in state["_modules"]
        and "forward" not in state
        and state.get("_compiled_call_impl") is None
    )


class AcceleratedLinear(nn.Linear):
    """`torch.nn.Linear` computed by `detrex_lite.ops.cpu.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., C). Returns (..., D)."""
        return linear(x, self.weight, self.bias)


class AcceleratedDropout(nn.Dropout):
    """`torch.nn.Dropout` computed by `detrex_lite.ops.cpu.dropout`, which draws masks 3 to 5 times as fast."""

    def forward(self, x: Tensor) -> Tensor:
        """x: of any shape. Returns the same shape."""
        threshold = drop_threshold(self.p, self.training)
        if torch.compiler.is_compiling() or self.inplace or x.device.type != "cpu" or not 0 < threshold < VALUES:
            return super().forward(x)
        return dropout(x, threshold)


class AcceleratedFFN(FFN):
    """`FFN` computed by `detrex_lite.ops.cpu.chunked_mlp`, which does not call the inner modules.

    An FFN with a different depth or activation, or whose inner modules were replaced or modified (see `is_untouched`),
    runs the plain implementation. Double backward needs `restore`.
    """

    def forward(self, x: Tensor, identity: Tensor | None = None) -> Tensor:
        """See `FFN.forward`."""
        if torch.compiler.is_compiling() or not self._can_be_chunked(x):
            return super().forward(x, identity)
        first, second = (cast(nn.Linear, layer) for layer in self.layers)
        out = chunked_mlp(
            x.reshape(-1, x.shape[-1]),
            first.weight,
            first.bias,
            second.weight,
            second.bias,
            drop_threshold(self.dropout.p, self.dropout.training),
        )
        out = self.dropout(out.view(*x.shape[:-1], out.shape[-1]))
        identity = x if identity is None else identity
        return identity + out if self.add_identity else out

    def _can_be_chunked(self, x: Tensor) -> bool:
        if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or len(self.layers) != 2:
            return False
        first, second = self.layers
        inner = (first, second, self.activations[0], self.dropout)
        exact = (_LINEAR, _LINEAR, _RELU, _DROPOUT)
        return (
            all(type(module) in types for module, types in zip(inner, exact, strict=True))
            and all(is_untouched(module) for module in inner)
            and not _has_any_global_hook()
            and drop_threshold(self.dropout.p) < VALUES
        )


class AcceleratedMultiheadAttention(MultiheadAttention):
    """`MultiheadAttention` whose packed projection is computed by `detrex_lite.ops.cpu.linear`."""

    _linear = staticmethod(linear)


class AcceleratedConditionalCrossAttention(ConditionalCrossAttention):
    """`ConditionalCrossAttention` whose values are padded to the width of its queries.

    torch's CPU kernel that does not materialise attention weights requires equal widths. It takes 0.4 of the time, or
    0.7 with gradients. The kernel does not support dropout of attention weights; with such dropout values are not
    padded.
    """

    def attend_heads(self, q: Tensor, k: Tensor, v: Tensor, *masks: Tensor | None) -> Tensor:
        """See `BaseAttention.attend_heads`."""
        width = v.shape[-1]
        drops = self.training and self.attn_drop > 0
        if torch.compiler.is_compiling() or drops or v.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return super().attend_heads(q, k, v, *masks)
        return super().attend_heads(q, k, F.pad(v, (0, q.shape[-1] - width)), *masks)[..., :width]


_LINEAR = (nn.Linear, AcceleratedLinear)
_RELU = (nn.ReLU,)
_DROPOUT = (nn.Dropout, AcceleratedDropout)


def _has_any_global_hook() -> bool:
    """Whether global module hooks are registered, such as those of profilers."""
    return bool(nn.modules.module._has_any_global_hook())
