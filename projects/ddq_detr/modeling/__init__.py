"""DDQ-DETR."""

from .ddq_detr import DDQDETR, DenseBranch

__all__ = ["DDQDETR", "DenseBranch"]
