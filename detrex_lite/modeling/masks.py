"""Masks computed from pixel features, at points and as a whole (Mask2Former, Cheng et al., CVPR 2022, section 3.4).

The product of a query's mask embedding with the features of all cells are the logits of its mask; masks are computed
only here, for few queries at a time. Points are (x, y) in 0..1 of a frame: that of the padded images, rounded up to
whole cells of the features.

Legend: B batch, Q queries, T objects, C channels, n masks, P points, h x w cells, H x W pixels.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..structures import inverse_sigmoid
from .predictions import LayerOutput, MaskFeatures, Predictions

# Names in `LayerOutput.extra`: mask embeddings, (B, Q, C), and logits of whole masks, (B, Q, h, w).
MASK_EMBEDDING = "mask_embedding"
MASK_LOGITS = "mask_logits"

# Largest number of elements of intermediate results that can be computed in chunks.
PART = 2**24


def draw_points(*shape: int, like: Tensor | None = None) -> Tensor:
    """Draw points from a uniform distribution over 0..1; all points of masks are drawn here.

    Args:
        shape: (..., P, 2).
        like: a tensor that gives the device and dtype of the result, which is float32 at least.
    """
    dtype = None if like is None else torch.promote_types(like.dtype, torch.float32)
    return torch.rand(*shape, dtype=dtype, device=None if like is None else like.device)


def features_of(predictions: LayerOutput | Predictions) -> MaskFeatures:
    """Return the features that mask embeddings are multiplied with.

    Raises:
        ValueError: when the detector has none, or its queries have no mask embeddings.
    """
    if predictions.mask_features is None or MASK_EMBEDDING not in predictions.extra:
        missing = "model.mask_branch" if predictions.mask_features is None else f"model.heads.extra.{MASK_EMBEDDING}"
        raise ValueError(f"these predictions have no masks: the detector needs {missing}")
    return predictions.mask_features


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Sample maps bilinearly, with zero padding.

    Args:
        maps: (n, C, h, w).
        points: (n, P, 2) in 0..1 of the maps.

    Returns:
        (n, C, P).
    """
    grid = (2 * points.to(maps.dtype) - 1)[:, None]
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[:, :, 0]


def sample_masks(masks: Tensor, index: Tensor, points: Tensor, frame: tuple[int, int]) -> Tensor:
    """Sample bool masks bilinearly, as `sample_maps` would sample their float values, without creating these.

    Args:
        masks: (T, H, W) bool.
        index: (n,) index of the mask of each row of points.
        points: (n, P, 2) in 0..1 of the frame.
        frame: (height, width) of the frame in pixels, at least (H, W); it is zero outside the masks.

    Returns:
        (n, P) in 0..1.
    """
    height, width = masks.shape[-2:]
    coordinates = points * points.new_tensor(frame[::-1]) - 0.5
    first = coordinates.floor()
    share = coordinates - first  # of the second pixel
    first = first.to(torch.int64)
    sampled = points.new_zeros(points.shape[:-1])
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = first[..., 0] + dx, first[..., 1] + dy
            weight = (share[..., 0] if dx else 1 - share[..., 0]) * (share[..., 1] if dy else 1 - share[..., 1])
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            pixel = masks[index[:, None], y.clamp(0, height - 1), x.clamp(0, width - 1)]
            sampled = sampled + weight * (pixel & inside)
    return sampled


def frame_of(features: MaskFeatures) -> tuple[int, int]:
    """Return the size (height, width) in pixels that all cells cover."""
    height, width = features.tensor.shape[-2:]
    return height * features.stride, width * features.stride


def uncertain_points(maps: Tensor, num_points: int, oversample_ratio: float, importance_ratio: float) -> Tensor:
    """Choose points for losses, most of them where a mask is least certain (PointRend, Kirillov et al., CVPR 2020).

    Args:
        maps: (n, h, w) logits.
        num_points: P.
        oversample_ratio: number of candidates that are drawn, as a multiple of P.
        importance_ratio: fraction of P that are the candidates with the smallest absolute logits; the others are drawn.

    Returns:
        (n, P, 2) in 0..1 of the maps.
    """
    candidates = draw_points(len(maps), int(num_points * oversample_ratio), 2, like=maps)
    number = int(num_points * importance_ratio)
    certainty = sample_maps(maps[:, None], candidates)[:, 0].abs()
    nearest = certainty.topk(number, dim=1, largest=False).indices
    chosen = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
    return torch.cat([chosen, draw_points(len(maps), num_points - number, 2, like=maps).to(chosen.dtype)], dim=1)


def binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the cross-entropy of (n, P) logits and targets in 0..1, averaged over points: (n,)."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the dice loss of (n, P) logits and targets in 0..1, smoothed by 1 (Milletari et al., 3DV 2016): (n,)."""
    probability = logits.sigmoid()
    return 1 - (2 * (probability * targets).sum(1) + 1) / (probability.sum(1) + targets.sum(1) + 1)


def recomputed(compute: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Call a function and recompute it in the backward pass instead of storing intermediate results.

    Args:
        compute: a function of tensors, without random numbers.
        inputs: its arguments.
    """
    return checkpoint(compute, *inputs, use_reentrant=False, preserve_rng_state=False)


def boxes_of_masks(embeddings: Tensor, features: MaskFeatures, eps: float = 1e-5) -> Tensor:
    """Compute the boxes around masks, at the resolution of the features (Mask DINO, Li et al., CVPR 2023, section 3.4).

    As published, a box spans from the first to the last row and column of cells of its mask, without the extent of the
    last ones, and keeps a distance of `eps` from the border. An empty mask has a box of zero size in the lower right
    corner.

    Args:
        embeddings: (B, Q, C).
        features: of the images.
        eps: of the inverse sigmoid of references.

    Returns:
        (B, Q, 4) cxcywh in 0..1 of each image without its padding, without gradients.
    """
    maps, padding = features.tensor.detach(), features.padding
    height, width = maps.shape[-2:]
    part = max(PART // (len(maps) * height * width), 1)
    edges = []
    for some in embeddings.detach().split(part, dim=1):
        inside = torch.einsum("bqc,bchw->bqhw", some, maps.to(some.dtype)) > 0
        if padding is not None:
            inside = inside & ~padding[:, None]
        corners = []
        for line in (inside.any(-2), inside.any(-1)):
            positions = torch.arange(line.shape[-1], device=line.device)
            corners.append((torch.where(line, positions, 10**8).amin(-1), torch.where(line, positions, 0).amax(-1)))
        (x0, x1), (y0, y1) = corners
        edges.append(torch.stack([x0, y0, x1, y1], dim=-1))
    dtype = torch.promote_types(maps.dtype, torch.float32)
    x0, y0, x1, y1 = torch.cat(edges, dim=1).to(dtype).unbind(-1)
    columns: int | Tensor = width
    rows: int | Tensor = height
    if padding is not None:
        columns, rows = ((~line).sum(-1, keepdim=True) for line in (padding[:, 0], padding[:, :, 0]))
    first = torch.stack([x0 / columns, y0 / rows], dim=-1)
    last = torch.stack([x1 / columns, y1 / rows], dim=-1)
    boxes = torch.cat([(first + last) / 2, last - first], dim=-1)
    return inverse_sigmoid(boxes, eps).sigmoid()


def masks_in_frame(maps: Tensor, stride: int, image_size: tuple[int, int] | None, size: tuple[int, int]) -> Tensor:
    """Resize masks from cells to pixels of the network's input, without its padding, and to the frame.

    Args:
        maps: (n, h, w) logits.
        stride: of their cells in pixels of the input.
        image_size: (height, width) of the input without its padding; None for everything that the cells cover.
        size: (height, width) of the frame.

    Returns:
        (n, height, width) logits.
    """
    height, width = (side * stride for side in maps.shape[-2:])
    # Masks are the batch dimension, which may be 0, unlike the channels.
    pixels = F.interpolate(maps[:, None], (height, width), mode="bilinear", align_corners=False)
    if image_size is not None:
        pixels = pixels[..., : image_size[0], : image_size[1]]
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False)[:, 0]
