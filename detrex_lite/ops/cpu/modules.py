"""What blocks are exchanged for on a CPU: subclasses with the same parameters and the same results, computed faster.

Each falls back to the block that it extends where its own computation does not apply: on other devices, while
torch.compile traces it and, but for dropout, under autocast.
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
    """Whether a call of `module` is a call of the `forward` of its class, with parameters that are its own.

    It is not where the module has hooks, which is also how pruning and weight_norm work, where it has parametrizations,
    or where its `forward` was replaced or compiled.
    """
    state = vars(module)
    return (
        not any(state.get(name) for name in _HOOKS)
        and "parametrizations" not in state["_modules"]
        and "forward" not in state
        and state.get("_compiled_call_impl") is None
    )


class AcceleratedLinear(nn.Linear):
    """`torch.nn.Linear` by `detrex_lite.ops.cpu.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., C). Returns (..., D)."""
        return linear(x, self.weight, self.bias)


class AcceleratedDropout(nn.Dropout):
    """`torch.nn.Dropout` by `detrex_lite.ops.cpu.dropout`: masks take a third to a fifth of the time."""

    def forward(self, x: Tensor) -> Tensor:
        """x: of any shape. Returns the same shape."""
        threshold = drop_threshold(self.p, self.training)
        if torch.compiler.is_compiling() or self.inplace or x.device.type != "cpu" or not 0 < threshold < VALUES:
            return super().forward(x)
        return dropout(x, threshold)


class AcceleratedFFN(FFN):
    """`FFN` by `detrex_lite.ops.cpu.chunked_mlp`, which does not call the inner modules.

    An FFN of another depth or activation, or whose inner modules were exchanged or touched (see `is_untouched`), runs
    as the plain one does. It can be differentiated once; double backward needs `restore`.
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
    """`ConditionalCrossAttention` with values as wide as its queries.

    The CPU's kernel that does not build the attention weights requires it: 0.4 of the time, 0.7 with gradients. That
    kernel has no dropout of attention weights, with which values stay as they are.
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
    """Whether there are hooks for all modules, such as those of profilers."""
    return bool(nn.modules.module._has_any_global_hook())
