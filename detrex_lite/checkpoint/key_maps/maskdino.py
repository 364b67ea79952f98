"""Names of Mask DINO in its authors' repository and in detrex."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from .backbones import detectron2_resnet, swin
from .common import layers, levels, under
from .key_map import Copy, KeyMap, Rules

_PIXEL_DECODER = "sem_seg_head.pixel_decoder."
_PREDICTOR = "sem_seg_head.predictor."
_FFN = {"linear1": "ffns.0.layers.0", "linear2": "ffns.0.layers.1"}
_MOST_LAYERS = 9


def _has_layer(state: Mapping[str, Tensor], index: int) -> bool:
    """Whether a detector has a decoder layer of this number; the encoder's heads follow the last layer's."""
    return f"heads.bbox_embed.{index + 1}.layers.0.weight" in state


def _mask_dino(backbone: Rules, num_maps: int) -> KeyMap:
    """Make the map of Mask DINO with `num_maps` maps of a backbone."""
    encoder = {"self_attn": "attentions.0", "norm1": "norms.0", "norm2": "norms.1", **_FFN}
    decoder = {"self_attn": "attentions.0", "cross_attn": "attentions.1", **_FFN}
    # Norms are numbered in the order of definition, which begins with cross-attention.
    decoder |= {"norm2": "norms.0", "norm1": "norms.1", "norm3": "norms.2"}
    return KeyMap(
        "maskdino",
        signature=(f"{_PREDICTOR}mask_embed.layers.#.weight", f"{_PIXEL_DECODER}mask_features.weight"),
        rules=(
            *backbone,
            *under(_PIXEL_DECODER, levels("input_proj", num_maps)),
            *under(f"{_PIXEL_DECODER}transformer.", layers("encoder", encoder)),
            (f"{_PIXEL_DECODER}transformer.level_embed", "transformer.level_embeds"),
            (f"{_PIXEL_DECODER}adapter_1.norm.", "mask_branch.lateral.1."),
            (f"{_PIXEL_DECODER}adapter_1.", "mask_branch.lateral.0."),
            (f"{_PIXEL_DECODER}layer_1.norm.", "mask_branch.smooth.1."),
            (f"{_PIXEL_DECODER}layer_1.", "mask_branch.smooth.0."),
            (f"{_PIXEL_DECODER}mask_features.", "mask_branch.project."),
            *under(_PREDICTOR, layers("decoder", decoder)),
            (f"{_PREDICTOR}decoder.ref_point_head.", "transformer.decoder.ref_point_head."),
            (f"{_PREDICTOR}decoder_norm.", "heads.norm."),
            (f"{_PREDICTOR}class_embed.", "heads.class_embed.0."),
            (f"{_PREDICTOR}_bbox_embed.", "heads.bbox_embed.0."),
            (f"{_PREDICTOR}mask_embed.", "heads.extra_embed.mask_embedding.0."),
            (f"{_PREDICTOR}enc_output.", "queries.proposals.enc_output."),
            (f"{_PREDICTOR}enc_output_norm.", "queries.proposals.enc_output_norm."),
            (f"{_PREDICTOR}label_enc.", "denoising.label_embedding."),
        ),
        copies=(
            Copy(f"{_PREDICTOR}decoder.norm.", f"{_PREDICTOR}decoder_norm."),
            *(
                Copy(f"{_PREDICTOR}{name}.{index}.", f"{_PREDICTOR}_bbox_embed.", when=partial(_has_layer, index=index))
                for name in ("decoder.bbox_embed", "bbox_embed")  # detrex has only the first one
                for index in range(_MOST_LAYERS)
            ),
        ),
        one_head=True,
    )


MASK_DINO = _mask_dino(detectron2_resnet("backbone."), 3)
MASK_DINO_SWIN = _mask_dino(swin("backbone."), 4)

MAPS = (MASK_DINO, MASK_DINO_SWIN)
