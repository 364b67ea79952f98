"""Kernels behind one function each; the plain reference of each is always importable.

`nms` is a module of its own: it needs torchvision, which takes seconds to import.
"""

from .deformable_attention import (
    multi_scale_deformable_attention,
    multi_scale_deformable_attention_from_offsets,
    use_deformable_attention_backend,
)

__all__ = [
    "multi_scale_deformable_attention",
    "multi_scale_deformable_attention_from_offsets",
    "use_deformable_attention_backend",
]
