"""transformers' detectors of the same kind and sizes as a config's model, with random weights and without downloads."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from torch import Tensor, nn

from detrex_lite.structures import box_xyxy_to_cxcywh

from .building import class_name, class_names
from .errors import BenchmarkError

_STAGES = ("res2", "res3", "res4", "res5")
_WIDTHS = {"basic": [64, 128, 256, 512], "bottleneck": [256, 512, 1024, 2048]}
_BLOCKS = {
    18: ("basic", [2, 2, 2, 2]),
    34: ("basic", [3, 4, 6, 3]),
    50: ("bottleneck", [3, 4, 6, 3]),
    101: ("bottleneck", [3, 4, 23, 3]),
    152: ("bottleneck", [3, 8, 36, 3]),
}


def plan_transformers_model(model_config: DictConfig) -> Callable[[], nn.Module]:
    """What builds the model of transformers that has the sizes of a config's model.

    The same parts of the backbone are trained, and the same dropout is drawn, as in the config's model. A model that
    transformers does not have is compared with the nearest one that it has: DINO with Deformable DETR.

    Args:
        model_config: the config's model.

    Raises:
        BenchmarkError: when transformers is not installed, has no such model, or none with these options.
    """
    names = class_names(model_config)
    kind = next((name for name in names if name in _KINDS), None)
    if kind is None:
        raise BenchmarkError(f"transformers has no model to compare {names[0]!r} with; it has: {', '.join(_KINDS)}")
    try:
        import transformers
    except ImportError as error:
        raise BenchmarkError(
            f"--against transformers needs that package: pip install transformers ({error})"
        ) from error
    transformers.logging.set_verbosity_error()
    model_class, config = _KINDS[kind](transformers, model_config, _backbone(transformers, model_config))

    def build() -> nn.Module:
        model = model_class(config)
        _train_the_same_stages(model, model_config.backbone.get("freeze_at", 1))
        return model

    return build


def transformers_inputs(images: Sequence[dict[str, Any]], model_config: DictConfig, device: torch.device) -> Tensor:
    """Normalised pixels (B, 3, H, W), float32. All images have one size, so there is nothing to mask."""
    preprocess = model_config.preprocess
    mean, std = (torch.tensor(list(preprocess[name])).view(3, 1, 1) for name in ("pixel_mean", "pixel_std"))
    return torch.stack([(record["image"].cpu() - mean) / std for record in images]).to(device)


def transformers_labels(images: Sequence[dict[str, Any]], device: torch.device) -> list[dict[str, Tensor]]:
    """Per image `class_labels` (T,) and `boxes` (T, 4), cxcywh in 0..1."""
    labels = []
    for one in images:
        instances = one["instances"]
        height, width = instances.image_size
        boxes = box_xyxy_to_cxcywh(instances.gt_boxes.tensor / torch.tensor([width, height, width, height]))
        labels.append({"class_labels": instances.gt_classes.to(device), "boxes": boxes.to(device)})
    return labels


def _detr(transformers: Any, cfg: DictConfig, backbone: Any) -> tuple[Any, Any]:
    """Class and config."""
    decoder = cfg.transformer.decoder
    if class_name(decoder) != "PositionalDecoder":
        raise BenchmarkError(f"transformers' DETR has no {class_name(decoder)}; it has a PositionalDecoder")
    for part in ("encoder", "decoder"):
        if cfg.transformer[part].layer.operation_order[0] == "norm":
            raise BenchmarkError(
                f"transformers' DETR has no pre-norm layers; change model.transformer.{part}.layer.operation_order"
            )
    config = transformers.DetrConfig(
        **_common_sizes(cfg),
        **_own_backbone(backbone),
        auxiliary_loss=bool(_find(cfg, "aux_loss", default=True)),
    )
    return transformers.DetrForObjectDetection, config


def _deformable_detr(transformers: Any, cfg: DictConfig, backbone: Any) -> tuple[Any, Any]:
    """Class and config."""
    sizes = _common_sizes(cfg)
    config = transformers.DeformableDetrConfig(
        **sizes,
        **_own_backbone(backbone),
        auxiliary_loss=bool(_find(cfg, "aux_loss", default=True)),
        num_feature_levels=_find(cfg.transformer, "num_feature_levels"),
        encoder_n_points=_find(_attention(cfg.transformer.encoder), "num_points", default=4),
        decoder_n_points=_find(_attention(cfg.transformer.decoder), "num_points", default=4),
        with_box_refine=bool(_find(cfg, "with_box_refine", default=False)),
        two_stage=bool(_find(cfg, "as_two_stage", default=False)),
        two_stage_num_proposals=sizes["num_queries"],
        disable_custom_kernels=True,  # it would look for a kernel on the network
    )
    return transformers.DeformableDetrForObjectDetection, config


# Class of a config's model -> what gives class and config of transformers' model of that kind.
_KINDS = {"DETR": _detr, "MultiScaleDetector": _deformable_detr}


def _attention(part: DictConfig) -> DictConfig:
    """The attention that reads the image: of an encoder's layer the only one, of a decoder's the last one."""
    attention = part.layer.attn
    return attention[-1] if isinstance(attention, ListConfig) else attention


def _common_sizes(cfg: DictConfig) -> dict[str, Any]:
    encoder, decoder = cfg.transformer.encoder, cfg.transformer.decoder
    dropout = float(_find(encoder.layer.ffn, "ffn_drop", default=0.0))
    return {
        "num_labels": cfg.num_classes,
        "num_queries": cfg.num_queries,
        "d_model": _find(cfg, "embed_dim"),
        "encoder_layers": _find(encoder, "num_layers"),
        "decoder_layers": _find(decoder, "num_layers"),
        "encoder_attention_heads": _find(_attention(encoder), "num_heads"),
        "decoder_attention_heads": _find(_attention(decoder), "num_heads"),
        "encoder_ffn_dim": _find(encoder.layer.ffn, "feedforward_dim"),
        "decoder_ffn_dim": _find(decoder.layer.ffn, "feedforward_dim"),
        # Where this project's layers drop: on attention weights, results of blocks and inside the FFN.
        "dropout": dropout,
        "attention_dropout": dropout,
        "activation_dropout": dropout,
    }


def _own_backbone(backbone: Any) -> dict[str, Any]:
    """Its own ResNet: no timm, no download. Newer versions do not need the flags, older ones do."""
    return {"backbone_config": backbone, "use_timm_backbone": False, "use_pretrained_backbone": False}


def _backbone(transformers: Any, cfg: DictConfig) -> Any:
    backbone = cfg.backbone
    if class_name(backbone) != "ResNet":
        raise BenchmarkError(f"only ResNet backbones can be compared with transformers', not {class_name(backbone)!r}")
    for name, value in (("dilation", False), ("norm", "FrozenBN")):
        if backbone.get(name, value) != value:
            raise BenchmarkError(
                f"transformers' detectors have no backbone with {name}={backbone[name]}; "
                f"add model.backbone.{name}={value}"
            )
    kind, depths = _BLOCKS[backbone.get("depth", 50)]
    stages = sorted(_STAGES.index(name) + 1 for name in backbone.get("out_features", ["res5"]))
    return transformers.ResNetConfig(
        layer_type=kind,
        depths=depths[: stages[-1]],
        hidden_sizes=_WIDTHS[kind][: stages[-1]],
        embedding_size=64,
        out_features=[f"stage{number}" for number in stages],
    )


def _train_the_same_stages(model: nn.Module, freeze_at: int) -> None:
    """Undo that transformers always freezes the stem and the first stage; see `ResNet` for `freeze_at`."""
    for name, parameter in model.named_parameters():
        if ".embedder." in name:
            parameter.requires_grad_(freeze_at < 1)
        elif ".encoder.stages." in name:
            parameter.requires_grad_(freeze_at < 2 + int(name.partition(".stages.")[2].partition(".")[0]))


_REQUIRED = object()


def _find(node: DictConfig, name: str, default: Any = _REQUIRED) -> Any:
    value = node.get(name)
    if value is not None:
        return value
    if default is _REQUIRED:
        raise BenchmarkError(f"the config of {class_name(node)} does not tell its {name}")
    return default
