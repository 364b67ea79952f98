"""DETR: End-to-End Object Detection with Transformers (Carion et al., ECCV 2020)."""

from .detr import DETR
from .transformer import DetrTransformer, DetrTransformerDecoder, DetrTransformerEncoder

__all__ = ["DETR", "DetrTransformer", "DetrTransformerDecoder", "DetrTransformerEncoder"]
