"""DINO: DETR with Improved DeNoising Anchor Boxes for End-to-End Object Detection (Zhang et al., ICLR 2023)."""

from .dino import DINO

__all__ = ["DINO"]
