"""Kernels behind one function each; the plain reference of each is always importable."""

from .deformable_attention import (
    multi_scale_deformable_attention,
    multi_scale_deformable_attention_from_offsets,
    use_deformable_attention_backend,
)
from .nms import nms_mask

__all__ = [
    "multi_scale_deformable_attention",
    "multi_scale_deformable_attention_from_offsets",
    "nms_mask",
    "use_deformable_attention_backend",
]
