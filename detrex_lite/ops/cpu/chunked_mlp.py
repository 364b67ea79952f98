"""Chunked Linear-ReLU-Dropout-Linear for CPUs that does not materialise the gradient of the hidden layer.

At 12,760 tokens and 2,048 hidden channels, the hidden layer takes 100 MB, and the plain backward pass allocates two
more tensors of that size, whose pages the system maps and unmaps each time. Here the tokens are processed in chunks
that fit the cache: the hidden layer is kept as a list of chunks, whose memory the allocator reuses, and its gradient
exists for one chunk at a time.

Legend: N tokens, C and D channels before and after, F hidden channels.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .dropout import draw_kept, kept_scale
from .linear import linear, weight_gradient

CHUNK_TOKENS = 2048


def chunked_mlp(
    x: Tensor,
    first_weight: Tensor,
    first_bias: Tensor | None,
    second_weight: Tensor,
    second_bias: Tensor | None,
    drop_threshold: int = 0,
) -> Tensor:
    """Compute `linear(dropout(relu(linear(x))))`.

    Args:
        x: (N, C), on a CPU.
        first_weight: (F, C).
        first_bias: (F,).
        second_weight: (D, F).
        second_bias: (D,).
        drop_threshold: how many of 65,536 hidden values are dropped on average, below 65,536; see
            `detrex_lite.ops.cpu.dropout.drop_threshold`.

    Returns:
        (N, D). Double backward is not supported.
    """
    arguments = (x, first_weight, first_bias, second_weight, second_bias)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in arguments):
        return _ChunkedMlp.apply(*arguments, drop_threshold)
    return _forward(*arguments, drop_threshold)[0]


class _ChunkedMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        first_weight: Tensor,
        first_bias: Tensor | None,
        second_weight: Tensor,
        second_bias: Tensor | None,
        drop_threshold: int,
    ) -> Tensor:
        ctx.drop_threshold = drop_threshold
        out, hidden_chunks = _forward(
            x, first_weight, first_bias, second_weight, second_bias, drop_threshold, keep=True
        )
        ctx.save_for_backward(x, first_weight, second_weight, *hidden_chunks)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, out_gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, first_weight, second_weight, *hidden_chunks = ctx.saved_tensors
        wants_x, wants_first_weight, wants_first_bias, wants_second_weight, wants_second_bias, _ = ctx.needs_input_grad
        first_transposed, second_transposed = first_weight.t().contiguous(), second_weight.t().contiguous()
        # There is one gradient of x per chunk; the gradients of weights and biases are sums over all chunks.
        x_gradients: list[Tensor] = []
        first_weight_gradient = torch.zeros_like(first_weight) if wants_first_weight else None
        first_bias_gradient = first_weight.new_zeros(len(first_weight)) if wants_first_bias else None
        second_weight_gradient = torch.zeros_like(second_weight) if wants_second_weight else None
        scaled = out_gradient * kept_scale(ctx.drop_threshold) if ctx.drop_threshold else out_gradient
        chunks = (x.split(CHUNK_TOKENS), scaled.split(CHUNK_TOKENS), hidden_chunks)
        for x_chunk, gradient, hidden in zip(*chunks, strict=True):
            if second_weight_gradient is not None:
                second_weight_gradient += weight_gradient(gradient, hidden, second_weight)
            if not any(ctx.needs_input_grad[:3]):
                continue
            hidden_gradient = linear(gradient, second_transposed)
            # `hidden` is zero where ReLU or dropout zeroed it, so one comparison masks the gradient for both.
            torch.ops.aten.threshold_backward.grad_input(hidden_gradient, hidden, 0, grad_input=hidden_gradient)
            if wants_x:
                x_gradients.append(linear(hidden_gradient, first_transposed))
            if first_weight_gradient is not None:
                first_weight_gradient += weight_gradient(hidden_gradient, x_chunk, first_weight)
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
    drop_threshold: int,
    keep: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """Compute the result and, with `keep`, the chunks of the hidden layer."""
    if drop_threshold:
        second_weight = second_weight * kept_scale(drop_threshold)
    out_chunks, hidden_chunks = [], []
    for chunk in x.split(CHUNK_TOKENS):
        hidden = linear(chunk, first_weight, first_bias).relu_()
        if drop_threshold:
            hidden.mul_(draw_kept(hidden.shape, drop_threshold))
        out_chunks.append(linear(hidden, second_weight, second_bias))
        if keep:
            hidden_chunks.append(hidden)
    return torch.cat(out_chunks), hidden_chunks
