"""Mask DINO: Towards a Unified Transformer-based Framework for Object Detection and Segmentation (Li et al., 2023)."""

from .heads import MaskDINOHeads

__all__ = ["MaskDINOHeads"]
