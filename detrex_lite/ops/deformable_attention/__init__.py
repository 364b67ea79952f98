"""Multi-scale deformable attention (Zhu et al., ICLR 2021, eq. 3): one operator with several backends."""

from .api import multi_scale_deformable_attention, multi_scale_deformable_attention_from_offsets
from .backends import BACKENDS, describe_backend, select_backend, use_deformable_attention_backend
from .reference import level_sizes, sampling_locations

__all__ = [
    "BACKENDS",
    "describe_backend",
    "level_sizes",
    "multi_scale_deformable_attention",
    "multi_scale_deformable_attention_from_offsets",
    "sampling_locations",
    "select_backend",
    "use_deformable_attention_backend",
]
