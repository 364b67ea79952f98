"""DAB-DETR: Dynamic Anchor Boxes are Better Queries for DETR (Liu et al., ICLR 2022)."""

from .dab_detr import DABDETR

__all__ = ["DABDETR"]
