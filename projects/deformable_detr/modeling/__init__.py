"""Deformable DETR: Deformable Transformers for End-to-End Object Detection (Zhu et al., ICLR 2021)."""

from .deformable_detr import DeformableDETR

__all__ = ["DeformableDETR"]
