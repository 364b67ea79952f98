"""Anchor DETR: Query Design for Transformer-Based Object Detection (Wang et al., AAAI 2022)."""

from .anchor_detr import AnchorDETR
from .positions import PointPositionEmbedding

__all__ = ["AnchorDETR", "PointPositionEmbedding"]
