"""The public functions of deformable attention: they check shapes, select a backend and compute.

Legend: B batch, Q queries, N tokens of all levels, H heads, L levels, P points, C channels of a head.
"""

from collections.abc import Sequence

from torch import Tensor

from .backends import select_backend
from .embedding_bag import deformable_attention_embedding_bag, deformable_attention_from_offsets_embedding_bag
from .grid_sample import deformable_attention_grid_sample
from .reference import deformable_attention_reference, sampling_locations

# Backends that take sampling locations and weights; the others also have kernels that take offsets and logits.
PLAIN = {"reference": deformable_attention_reference, "grid_sample": deformable_attention_grid_sample}


def multi_scale_deformable_attention(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """Compute the weighted sum of bilinear samples of several feature maps (Zhu et al., ICLR 2021, eq. 3).

    Maps are zero-padded. Coordinates 0 and 1 are the borders of a map, not the centres of its outer cells
    (`align_corners=False`).

    Args:
        value: (B, N, H, C), the maps flattened row by row, level after level.
        spatial_shapes: L pairs (height, width); their products sum to N.
        sampling_locations: (B, Q, H, L, P, 2), x first, normalised to 0..1 by the size of each map.
        attention_weights: (B, Q, H, L, P); they need not sum to 1.
        backend: one of `BACKENDS`; None selects one by device and dtype (see `select_backend`).

    Returns:
        (B, Q, H * C), in the dtype of `value`; half precision is summed in float32.

    Raises:
        ValueError: when shapes do not match, or the backend is unknown or does not support these tensors.
    """
    spatial_shapes = _checked_shapes(value, spatial_shapes)
    batch, _, heads, _ = value.shape
    expected = (batch, sampling_locations.shape[1], heads, len(spatial_shapes), attention_weights.shape[-1])
    _require_shape("attention_weights", attention_weights, expected, "(B, Q, H, L, P)")
    _require_shape("sampling_locations", sampling_locations, (*expected, 2), "(B, Q, H, L, P, 2)")
    name = select_backend(value.device, value.dtype, backend)
    if name == "triton":
        from .triton_ops import deformable_attention_triton

        return deformable_attention_triton(value, spatial_shapes, sampling_locations, attention_weights)
    if name in PLAIN:
        return PLAIN[name](value, spatial_shapes, sampling_locations, attention_weights)
    return deformable_attention_embedding_bag(value, spatial_shapes, sampling_locations, attention_weights)


def multi_scale_deformable_attention_from_offsets(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    reference_points: Tensor,
    sampling_offsets: Tensor,
    attention_logits: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """Compute `multi_scale_deformable_attention` from the outputs of a layer's projections.

    A GPU reads and writes less memory than with separately computed locations and weights.

    Args:
        value, spatial_shapes, backend: see `multi_scale_deformable_attention`.
        reference_points: (B, Q, L, 2) points or (B, Q, L, 4) cxcywh boxes, normalised to 0..1 by each padded map.
        sampling_offsets: (B, Q, H, L, P, 2), x first; see `sampling_locations` for their units.
        attention_logits: (B, Q, H, L, P); softmax over levels and points is applied here.

    Returns:
        (B, Q, H * C), in the dtype of `value`.

    Raises:
        ValueError: when shapes do not match, or the backend is unknown or does not support these tensors.
    """
    spatial_shapes = _checked_shapes(value, spatial_shapes)
    batch, queries, levels = value.shape[0], attention_logits.shape[1], len(spatial_shapes)
    coordinates = reference_points.shape[-1]
    expected = (batch, queries, value.shape[2], levels, attention_logits.shape[-1])
    _require_shape("attention_logits", attention_logits, expected, "(B, Q, H, L, P)")
    _require_shape("sampling_offsets", sampling_offsets, (*attention_logits.shape, 2), "(B, Q, H, L, P, 2)")
    if coordinates not in (2, 4):
        raise ValueError(f"reference points have 2 coordinates (x, y) or 4 (cx, cy, w, h), got {coordinates}")
    _require_shape("reference_points", reference_points, (batch, queries, levels, coordinates), "(B, Q, L, 2 or 4)")
    name = select_backend(value.device, value.dtype, backend)
    if name in PLAIN:
        locations = sampling_locations(reference_points, sampling_offsets, spatial_shapes)
        weights = attention_logits.flatten(-2).softmax(-1).view_as(attention_logits)
        return PLAIN[name](value, spatial_shapes, locations, weights)
    inputs = (value, spatial_shapes, reference_points, sampling_offsets, attention_logits)
    if name == "triton":
        from .triton_ops import deformable_attention_from_offsets_triton

        return deformable_attention_from_offsets_triton(*inputs)
    return deformable_attention_from_offsets_embedding_bag(*inputs)


def _checked_shapes(value: Tensor, spatial_shapes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    if isinstance(spatial_shapes, Tensor):
        raise ValueError("spatial_shapes must be a list of (height, width) pairs of int, not a tensor")
    if value.dim() != 4:
        raise ValueError(f"value has shape {tuple(value.shape)}; expected (B, N, H, C)")
    shapes = list(spatial_shapes)
    tokens = sum(height * width for height, width in shapes)
    if tokens != value.shape[1]:
        raise ValueError(f"spatial_shapes {shapes} have {tokens} cells, but value has {value.shape[1]} tokens")
    return shapes


def _require_shape(name: str, tensor: Tensor, expected: tuple[int, ...], letters: str) -> None:
    if tensor.shape != expected:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {letters} = {tuple(expected)}")
