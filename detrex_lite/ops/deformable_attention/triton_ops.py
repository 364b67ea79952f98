"""Deformable attention on a GPU: torch operators that launch the kernels of `triton_kernels`.

They are registered with torch, so that torch.compile traces through them without a graph break. They neither
synchronise with the GPU nor copy to it, so that CUDA graphs can capture them.

Legend: B batch, Q queries, N tokens of all levels, H heads, L levels, P points, C channels of a head.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from .triton_kernels import backward_kernel, forward_kernel

# Tuning parameters. Each lane of a warp holds one load of 16 bytes in the forward pass, and one vector atomic of four
# float32 in the backward pass. A program is one warp if the tile of one query allows it, because warps exchange data
# through shared memory and barriers.
FORWARD_BYTES_PER_LANE = 16
BACKWARD_CHANNELS_PER_LANE = 4
MOST_WARPS = 8
# Number of queries that a row of a tile walks along in the backward pass, merging additions to the same cells (see the
# kernel). A longer run merges more but leaves fewer programs: 22,223 queries of 8 heads give 22,000 warps, and an H200
# runs 3,700 of them at a time.
ENCODER_RUN = 8

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def deformable_attention_triton(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """See `multi_scale_deformable_attention`; the inputs may differ in dtype, each gradient has the dtype of its input.

    Raises:
        ValueError: for a dtype other than float32, float16 and bfloat16.
    """
    _require_dtypes(value=value, sampling_locations=sampling_locations, attention_weights=attention_weights)
    return _attend(value, None, sampling_locations, attention_weights, _flat(spatial_shapes))[0]


def deformable_attention_from_offsets_triton(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
) -> Tensor:
    """See `multi_scale_deformable_attention_from_offsets`; dtypes as in `deformable_attention_triton`.

    Raises:
        ValueError: for another dtype, or reference points that are not (B, Q, L, 2) or (B, Q, L, 4).
    """
    _require_dtypes(
        value=value,
        reference_points=reference_points,
        sampling_offsets=sampling_offsets,
        attention_logits=attention_logits,
    )
    expected = (value.shape[0], sampling_offsets.shape[1], len(spatial_shapes))
    if reference_points.shape[:-1] != expected or reference_points.shape[-1] not in (2, 4):
        raise ValueError(
            f"reference_points have shape {tuple(reference_points.shape)}; expected (B, Q, L, 2) or (B, Q, L, 4) with "
            f"(B, Q, L) = {expected}"
        )
    return _attend(value, reference_points, sampling_offsets, attention_logits, _flat(spatial_shapes))[0]


def _flat(spatial_shapes: Sequence[tuple[int, int]]) -> list[int]:
    """Flatten the shapes to (height, width, height, width, ...), the form that operators accept."""
    return [size for shape in spatial_shapes for size in shape]


def _require_dtypes(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"the Triton kernels take {', '.join(map(str, _DTYPES))}; {name} is {tensor.dtype}")


@torch.library.custom_op("detrex_lite::deformable_attention", mutates_args=())
def _attend(
    value: Tensor, points: Tensor | None, samples: Tensor, weights: Tensor, shapes: list[int]
) -> tuple[Tensor, Tensor]:
    """Compute both forms: without points, samples are locations; with points, samples are offsets and weights logits.

    Returns:
        (B, Q, H * C) in the dtype of value, and the logits' log-sum-exp (B, Q, H) in float32, empty without points.
    """
    out, log_sums = _empty_outputs(value, points, samples)
    if out.numel() == 0 or samples.numel() == 0:
        return out.zero_(), log_sums.zero_()
    value, samples, weights = value.contiguous(), samples.contiguous(), weights.contiguous()
    points = None if points is None else points.contiguous()
    sizes = _Sizes(value, points, samples, shapes)
    tile = sizes.tile(FORWARD_BYTES_PER_LANE // value.element_size())
    # Pointers that a form does not use are never read, but each needs some tensor.
    with torch.cuda.device_of(value):
        forward_kernel[sizes.grid(tile["BLOCK_Q"])](
            out, log_sums, value, samples if points is None else points, samples, weights, *sizes.varying,
            BLOCK_LP=triton.next_power_of_2(sizes.L * sizes.P), **sizes.fixed, **tile,
        )  # fmt: skip
    return out, log_sums


@_attend.register_fake
def _(
    value: Tensor, points: Tensor | None, samples: Tensor, weights: Tensor, shapes: list[int]
) -> tuple[Tensor, Tensor]:
    return _empty_outputs(value, points, samples)


def _empty_outputs(value: Tensor, points: Tensor | None, samples: Tensor) -> tuple[Tensor, Tensor]:
    batch, queries, heads = samples.shape[:3]
    out = value.new_empty((batch, queries, heads * value.shape[3]))
    log_sums = value.new_empty((0,) if points is None else (batch, queries, heads), dtype=torch.float32)
    return out, log_sums


@torch.library.custom_op("detrex_lite::deformable_attention_backward", mutates_args=())
def _attend_backward(
    grad_out: Tensor,
    out: Tensor,
    log_sums: Tensor,
    value: Tensor,
    points: Tensor | None,
    samples: Tensor,
    weights: Tensor,
    shapes: list[int],
    want_points: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of value, points (empty unless `want_points`), samples and weights, in their dtypes."""
    grad_samples, grad_weights = samples.new_zeros(samples.shape), weights.new_zeros(weights.shape)
    grad_value = value.new_zeros(value.shape, dtype=torch.float32)
    wanted_shape = points.shape if want_points and points is not None else (0,)
    grad_points = value.new_zeros(wanted_shape, dtype=torch.float32)
    if out.numel() > 0 and samples.numel() > 0:
        value, samples, weights = value.contiguous(), samples.contiguous(), weights.contiguous()
        points = None if points is None else points.contiguous()
        sizes = _Sizes(value, points, samples, shapes)
        tile = sizes.tile(BACKWARD_CHANNELS_PER_LANE)
        # When there are as many queries as cells, they are the queries of an encoder, in the order of the cells.
        run = ENCODER_RUN if samples.shape[1] == value.shape[1] else 1
        with torch.cuda.device_of(value):
            backward_kernel[sizes.grid(tile["BLOCK_Q"] * run)](
                grad_value, grad_points, grad_samples, grad_weights, grad_out.contiguous(), out.contiguous(), log_sums,
                value, samples if points is None else points, samples, weights, *sizes.varying,
                POINT_GRADIENTS=want_points, RUN=run, **sizes.fixed, **tile,
            )  # fmt: skip
    points_dtype = value.dtype if points is None else points.dtype
    return grad_value.to(value.dtype), grad_points.to(points_dtype), grad_samples, grad_weights


@_attend_backward.register_fake
def _(
    grad_out: Tensor,
    out: Tensor,
    log_sums: Tensor,
    value: Tensor,
    points: Tensor | None,
    samples: Tensor,
    weights: Tensor,
    shapes: list[int],
    want_points: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if points is None or not want_points:
        grad_points = value.new_empty((0,), dtype=value.dtype if points is None else points.dtype)
    else:
        grad_points = points.new_empty(points.shape)
    return (
        value.new_empty(value.shape),
        grad_points,
        samples.new_empty(samples.shape),
        weights.new_empty(weights.shape),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    value, points, samples, weights, shapes = inputs
    ctx.shapes = shapes
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # avoids materialising a zero gradient of the log-sum-exp
    ctx.save_for_backward(*output, value, points, samples, weights)


def _backward(ctx: Any, grad_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    want_points = ctx.needs_input_grad[1]
    grad_value, grad_points, grad_samples, grad_weights = _attend_backward(
        grad_out, *ctx.saved_tensors, ctx.shapes, want_points
    )
    return grad_value, grad_points if want_points else None, grad_samples, grad_weights, None


_attend.register_autograd(_backward, setup_context=_save)


class _Sizes:
    """The sizes that kernels need, and the partition of the work into tiles."""

    def __init__(self, value: Tensor, points: Tensor | None, samples: Tensor, shapes: list[int]) -> None:
        heights, widths = shapes[::2], shapes[1::2]
        tokens = sum(height * width for height, width in zip(heights, widths, strict=True))
        assert tokens == value.shape[1], f"{shapes} have {tokens} cells, value has {value.shape[1]}"
        if max(value[0].numel(), samples[0].numel()) >= 2**31:
            raise ValueError("the Triton kernels count elements of one image in 32 bits: too many tokens or queries")
        self.B, self.Q, self.H, self.L, self.P = samples.shape[:5]
        self.C = value.shape[3]
        # Arguments that vary from batch to batch; kernels are not recompiled for them (see forward_kernel).
        self.varying = (tuple(map(float, heights)), tuple(map(float, widths)), self.Q, value.shape[1])
        # Arguments that are constant for a model; as compile-time constants they tell Triton how lines are aligned.
        point_size = 0 if points is None else points.shape[-1]
        self.fixed = dict(H=self.H, L=self.L, P=self.P, C=self.C, POINT_SIZE=point_size)

    def tile(self, channels_per_lane: int) -> dict[str, int | bool]:
        """Take as many queries as fill a warp, at least one; large C and P need more warps or more work per lane."""
        block_p, block_c = triton.next_power_of_2(self.P), triton.next_power_of_2(self.C)
        block_q = max(1, 32 * channels_per_lane // (block_p * block_c))
        warps = min(MOST_WARPS, max(1, block_q * block_p * block_c // (32 * channels_per_lane)))
        # Fused multiply-add does not affect the accuracy of the float32 results.
        return dict(BLOCK_Q=block_q, BLOCK_P=block_p, BLOCK_C=block_c, num_warps=warps, enable_fp_fusion=True)

    def grid(self, queries: int) -> tuple[int]:
        return (self.B * self.H * triton.cdiv(self.Q, queries),)
