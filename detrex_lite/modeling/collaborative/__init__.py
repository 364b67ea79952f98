"""Auxiliary heads of other detectors for training a DETR (Co-DETR, Zong et al., ICCV 2023): one-to-many labels for
its encoder, and positive queries for its decoder.

A detector uses them in training only; `self.collaboration` is a `CollaborativeHeads` or None:

    blocks, losses = self.collaboration(maps, image_sizes, targets)   # maps of the encoder's tokens
    queries = Queries(blocks)                                         # the positives of the heads, as decoder queries
    layers = decoder(queries, memory, heads)
    return queries.split(layers)                                      # "_rcnn", "_0_rcnn", ..., "_atss", "_0_atss", ...
"""

from .assignment import BACKGROUND, NEITHER, assign_atss, assign_by_overlap, draw, sample
from .atss import ATSSHead, centerness
from .collaboration import CollaborativeHeads
from .faster_rcnn import FasterRCNNHead, roi_levels
from .positives import PositiveQueries
from .pyramid import Anchors, Candidates, HeadResult, Pyramid, decode_boxes, encode_boxes

__all__ = [
    "BACKGROUND",
    "NEITHER",
    "ATSSHead",
    "Anchors",
    "Candidates",
    "CollaborativeHeads",
    "FasterRCNNHead",
    "HeadResult",
    "PositiveQueries",
    "Pyramid",
    "assign_atss",
    "assign_by_overlap",
    "centerness",
    "decode_boxes",
    "draw",
    "encode_boxes",
    "roi_levels",
    "sample",
]
