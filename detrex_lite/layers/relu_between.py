"""Two linear layers with ReLU and dropout between them on a CPU, part by part, so that a part stays in the cache.

At 12,760 tokens and 2,048 hidden channels a hidden layer has 100 MB, and the plain backward pass makes two more of
that size, whose pages are all fetched from the system and given back again. Here the hidden layer is made once, in
parts that the allocator keeps, and its gradient exists for one part at a time.

Legend: N tokens, C and D channels before and after, F hidden channels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..ops.linear import linear, weight_gradient
from .dropout import draw_kept, kept_scale

TOKENS_AT_A_TIME = 2048


def relu_between(
    x: Tensor,
    first_weight: Tensor,
    first_bias: Tensor | None,
    second_weight: Tensor,
    second_bias: Tensor | None,
    dropped: int = 0,
) -> Tensor:
    """`linear(dropout(relu(linear(x))))`.

    Args:
        x: (N, C), on a CPU.
        first_weight: (F, C).
        first_bias: (F,).
        second_weight: (D, F).
        second_bias: (D,).
        dropped: of 65,536 hidden values how many are dropped on average; see `Dropout`.

    Returns:
        (N, D). It can be differentiated once.
    """
    arguments = (x, first_weight, first_bias, second_weight, second_bias)
    if torch.is_grad_enabled() and any(one is not None and one.requires_grad for one in arguments):
        return _ReluBetween.apply(*arguments, dropped)
    return _forward(*arguments, dropped)[0]


class _ReluBetween(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        first_weight: Tensor,
        first_bias: Tensor | None,
        second_weight: Tensor,
        second_bias: Tensor | None,
        dropped: int,
    ) -> Tensor:
        ctx.dropped = dropped
        out, hidden_parts = _forward(x, first_weight, first_bias, second_weight, second_bias, dropped, keep=True)
        ctx.save_for_backward(x, first_weight, second_weight, *hidden_parts)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, out_gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, first_weight, second_weight, *hidden_parts = ctx.saved_tensors
        wants_x, wants_first_weight, wants_first_bias, wants_second_weight, wants_second_bias, _ = ctx.needs_input_grad
        first_across, second_across = first_weight.t().contiguous(), second_weight.t().contiguous()
        # Of parts of x; the others are sums over all parts.
        x_gradients: list[Tensor] = []
        first_weight_gradient = torch.zeros_like(first_weight) if wants_first_weight else None
        first_bias_gradient = first_weight.new_zeros(len(first_weight)) if wants_first_bias else None
        second_weight_gradient = torch.zeros_like(second_weight) if wants_second_weight else None
        scaled = out_gradient * kept_scale(ctx.dropped) if ctx.dropped else out_gradient
        parts = (x.split(TOKENS_AT_A_TIME), scaled.split(TOKENS_AT_A_TIME), hidden_parts)
        for x_part, gradient, hidden in zip(*parts, strict=True):
            if second_weight_gradient is not None:
                second_weight_gradient += weight_gradient(gradient, hidden, second_weight)
            if not any(ctx.needs_input_grad[:3]):
                continue
            hidden_gradient = linear(gradient, second_across)
            # What was dropped is zero in `hidden`, as what ReLU cut off is: one comparison stops the gradient of both.
            torch.ops.aten.threshold_backward.grad_input(hidden_gradient, hidden, 0, grad_input=hidden_gradient)
            if wants_x:
                x_gradients.append(linear(hidden_gradient, first_across))
            if first_weight_gradient is not None:
                first_weight_gradient += weight_gradient(hidden_gradient, x_part, first_weight)
            if first_bias_gradient is not None:
                first_bias_gradient += hidden_gradient.sum(0)
        second_bias_gradient = out_gradient.sum(0) if wants_second_bias else None
        x_gradient = torch.cat(x_gradients) if wants_x else None
        return (
            x_gradient,
            first_weight_gradient,
            first_bias_gradient,
            second_weight_gradient,
            second_bias_gradient,
            None,
        )


def _forward(
    x: Tensor,
    first_weight: Tensor,
    first_bias: Tensor | None,
    second_weight: Tensor,
    second_bias: Tensor | None,
    dropped: int,
    keep: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """The result, and the parts of the hidden layer if they are to be kept."""
    if dropped:
        second_weight = second_weight * kept_scale(dropped)
    out_parts, hidden_parts = [], []
    for part in x.split(TOKENS_AT_A_TIME):
        hidden = linear(part, first_weight, first_bias).relu_()
        if dropped:
            hidden.mul_(draw_kept(hidden.shape, dropped))
        out_parts.append(linear(hidden, second_weight, second_bias))
        if keep:
            hidden_parts.append(hidden)
    return torch.cat(out_parts), hidden_parts
