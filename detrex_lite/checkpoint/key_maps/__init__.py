"""Translation of parameter names between other projects and this one, in both directions.

To read the weights of another project, write a `KeyMap` and add it to `KEY_MAPS`, or pass it as `source` to
`load_checkpoint`.

Names in this project: ResNets have torchvision's names under `backbone.`, and networks of timm have timm's names under
`backbone.model.`. A transformer layer has `attentions.N`, `ffns.N` and `norms.N`, numbered in the order of use. Heads
are `heads.class_embed.N` and `heads.bbox_embed.N` for decoder layer N; the encoder's heads follow the last layer's.
"""

from . import detrex, dfine, lwdetr, maskdino, mmdetection, papers, rtdetr, transformers
from .backbones import CAE, DETECTRON2, DINOV2, TORCHVISION, TRANSFORMERS_DINOV2
from .conversions import COCO_IDS
from .key_map import ENCODER_HEAD, Conversion, Copy, KeyMap, split_part, translate

DETREX_LITE = KeyMap("detrex_lite", signature=(), rules=())

KEY_MAPS: tuple[KeyMap, ...] = (
    DETREX_LITE,
    *detrex.MAPS,
    *papers.MAPS,
    *rtdetr.MAPS,
    *dfine.MAPS,
    *transformers.MAPS,
    *lwdetr.MAPS,
    *maskdino.MAPS,
    *mmdetection.MAPS,
    TORCHVISION,
    DETECTRON2,
    CAE,
    DINOV2,
    TRANSFORMERS_DINOV2,
)

__all__ = [
    "COCO_IDS",
    "DETREX_LITE",
    "ENCODER_HEAD",
    "KEY_MAPS",
    "Conversion",
    "Copy",
    "KeyMap",
    "split_part",
    "translate",
]
