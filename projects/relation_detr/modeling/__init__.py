"""Relation-DETR: Exploring Explicit Position Relation Prior for Object Detection (Hou et al., ECCV 2024)."""

from .relation_detr import HybridBranch, RelationDETR, RelationQueries

__all__ = ["HybridBranch", "RelationDETR", "RelationQueries"]
