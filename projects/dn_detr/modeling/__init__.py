"""DN-DETR: Accelerate DETR Training by Introducing Query DeNoising (Li et al., CVPR 2022)."""

from .dn_detr import DNDETR

__all__ = ["DNDETR"]
