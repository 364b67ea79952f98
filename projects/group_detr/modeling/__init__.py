"""Group DETR (Chen et al., ICCV 2023), and how detrex computes its self-attention."""

from .attention import DetrexGroupSelfAttention

__all__ = ["DetrexGroupSelfAttention"]
