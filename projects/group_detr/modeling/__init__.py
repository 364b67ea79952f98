"""Group DETR (Chen et al., ICCV 2023), with the self-attention that detrex computes."""

from .attention import DetrexGroupSelfAttention

__all__ = ["DetrexGroupSelfAttention"]
