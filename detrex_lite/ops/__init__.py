"""Operators with several backends behind one function each; the reference backend is always importable.

`nms` is a separate module, because it needs torchvision, which takes seconds to import.
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
