"""The public functions of deformable attention: check the shapes, choose a way, compute.

Legend: B batch, Q queries, N tokens of all levels, H heads, L levels, P points, C channels of a head.
"""

from collections.abc import Sequence

from torch import Tensor

from .backends import select_backend
from .embedding_bag import deformable_attention_embedding_bag, deformable_attention_from_offsets_embedding_bag
from .grid_sample import deformable_attention_grid_sample
from .reference import deformable_attention_reference, sampling_locations

# Those that take sampling locations and weights; the others have kernels that begin at the offsets.
PLAIN = {"reference": deformable_attention_reference, "grid_sample": deformable_attention_grid_sample}


def multi_scale_deformable_attention(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    *,
    backend: str | None = None,
) -> Tensor:
    """The weighted sum of bilinear samples of several feature maps (Zhu et al., ICLR 2021, eq. 3).

    Maps are zero outside, and 0 and 1 are their borders, not the centres of their outer cells (`align_corners=False`).

    Args:
        value: (B, N, H, C), the maps flattened row by row, level after level.
        spatial_shapes: L pairs (height, width); their products sum to N.
        sampling_locations: (B, Q, H, L, P, 2), x first, in 0..1 of each map.
        attention_weights: (B, Q, H, L, P); papers have them sum to 1 over levels and points, this does not need it.
        backend: one of `BACKENDS`; None chooses by device and dtype (see `select_backend`).

    Returns:
        (B, Q, H * C), in the dtype of `value`; half precision is summed in float32.

    Raises:
        ValueError: when shapes do not fit together, or the backend is unknown or cannot take these tensors.
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
    """As `multi_scale_deformable_attention`, from what a layer's projections give: fewer passes over memory on a GPU.

    Args:
        value, spatial_shapes, backend: see there.
        reference_points: (B, Q, L, 2) points or (B, Q, L, 4) cxcywh boxes, in 0..1 of each (padded) map.
        sampling_offsets: (B, Q, H, L, P, 2), x first; see `sampling_locations` for their units.
        attention_logits: (B, Q, H, L, P), normalised here by softmax over levels and points.

    Returns:
        (B, Q, H * C), in the dtype of `value`.

    Raises:
        ValueError: as there.
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
        raise ValueError("spatial_shapes is a list of Python pairs (height, width); a tensor may be on a GPU")
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
