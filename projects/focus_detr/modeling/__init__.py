"""Focus-DETR: Less is More: Focus Attention for Efficient DETR (Zheng et al., ICCV 2023)."""

from .focus_detr import FocusDETR

__all__ = ["FocusDETR"]
