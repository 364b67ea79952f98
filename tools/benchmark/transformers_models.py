"""Models of transformers with the kind and sizes of a config's model, with random weights and without downloads."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from torch import Tensor, nn

from detrex_lite.checkpoint import CheckpointError, convert_state_dict
from detrex_lite.config import instantiate
from detrex_lite.errors import few
from detrex_lite.modeling.backbone.hgnetv2 import VARIANTS
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
    """Return a function that builds the model of transformers with the sizes of a config's model.

    The same parts of the backbone are trained, with the same dropout, as in the config's model. A model that
    transformers does not have is compared with the most similar one: DINO with Deformable DETR.

    Args:
        model_config: the config's model.

    Raises:
        BenchmarkError: when transformers is not installed, has no such model, or none with these options.
    """
    make = _kind(model_config)
    try:
        import transformers
    except ImportError as error:
        raise BenchmarkError(
            f"--against transformers needs that package: pip install transformers ({error})"
        ) from error
    transformers.logging.set_verbosity_error()
    model_class, config = make(transformers, model_config)

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
    """For each image `class_labels` (T,) and `boxes` (T, 4), cxcywh in 0..1."""
    labels = []
    for record in images:
        instances = record["instances"]
        height, width = instances.image_size
        boxes = box_xyxy_to_cxcywh(instances.gt_boxes.tensor / torch.tensor([width, height, width, height]))
        labels.append({"class_labels": instances.gt_classes.to(device), "boxes": boxes.to(device)})
    return labels


def copy_weights(model: nn.Module, theirs: nn.Module) -> bool:
    """Copy the weights of this project's model into transformers', so that both detect the same objects.

    Returns:
        True if the weights were copied. False for models with transformers' own ResNet, for which this project does not
        write checkpoints.

    Raises:
        BenchmarkError: when the names of the tensors do not agree.
    """
    if not type(theirs).__name__.startswith(_WITH_OUR_WEIGHTS):
        return False
    try:
        state = convert_state_dict(model.state_dict(), "transformers")
        result = theirs.load_state_dict(state, strict=False)
    except (CheckpointError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BenchmarkError(f"transformers' model does not take the weights: {reason}") from error
    tensors = theirs.state_dict(keep_vars=True)
    loaded = {id(tensors[name]) for name in state if name in tensors}  # heads have two names
    missing = [
        name for name in result.missing_keys if not name.endswith(_CONSTANTS) and id(tensors[name]) not in loaded
    ]
    if missing or result.unexpected_keys:
        raise BenchmarkError(
            f"transformers' model does not take the weights: it lacks {few(result.unexpected_keys) or 'nothing'}, and "
            f"the weights lack {few(missing) or 'nothing'}"
        )
    return True


# RT-DETR, RT-DETRv2, D-FINE.
_WITH_OUR_WEIGHTS = ("RTDetr", "DFine")
_CONSTANTS = ("num_batches_tracked", "n_points_scale", "num_points_scale", "decoder.up", "decoder.reg_scale")


def _kind(cfg: DictConfig) -> Callable[[Any, DictConfig], tuple[Any, Any]]:
    names = class_names(cfg)
    if cfg.get("neck") is not None and class_name(cfg.neck) == "HybridEncoder":
        return _dfine if class_name(cfg.heads) == "DistributionHeads" else _rtdetr
    kind = next((name for name in names if name in _KINDS), None)
    if kind is None:
        raise BenchmarkError(f"transformers has no model to compare {names[0]!r} with; it has: {', '.join(_KINDS)}")
    return _KINDS[kind]


def _detr(transformers: Any, cfg: DictConfig) -> tuple[Any, Any]:
    """The class and config of DETR."""
    backbone, decoder = _resnet_options(transformers, cfg.backbone), cfg.transformer.decoder
    if class_name(decoder) != "PositionalDecoder":
        raise BenchmarkError(f"transformers' DETR has no {class_name(decoder)}; it has a PositionalDecoder")
    for part in ("encoder", "decoder"):
        if cfg.transformer[part].layer.operation_order[0] == "norm":
            raise BenchmarkError(
                f"transformers' DETR has no pre-norm layers; change model.transformer.{part}.layer.operation_order"
            )
    config = transformers.DetrConfig(
        **_common_sizes(cfg, cfg.transformer.encoder),
        **backbone,
        auxiliary_loss=bool(_find(cfg, "aux_loss", default=True)),
    )
    return transformers.DetrForObjectDetection, config


def _deformable_detr(transformers: Any, cfg: DictConfig) -> tuple[Any, Any]:
    """The class and config of Deformable DETR."""
    backbone, sizes = _resnet_options(transformers, cfg.backbone), _common_sizes(cfg, cfg.transformer.encoder)
    config = transformers.DeformableDetrConfig(
        **sizes,
        **backbone,
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


def _rtdetr(transformers: Any, cfg: DictConfig) -> tuple[Any, Any]:
    """The class and config of RT-DETR, or of RT-DETRv2 where `num_points` is a list with a number for each level.

    transformers supports only one number for all levels.
    """
    attention, options = _attention(cfg.transformer.decoder), _realtime_options(cfg)
    block, depths = _BLOCKS[cfg.backbone.depth]
    if class_name(cfg.backbone) != "PResNet" or class_name(cfg.neck.fusion) != "CSPRepLayer":
        raise BenchmarkError("transformers' RT-DETR supports only a PResNet and fusion by CSPRepLayer")
    if cfg.neck.fusion.num_blocks != _FUSION_BLOCKS:
        raise BenchmarkError(f"transformers' RT-DETR has {_FUSION_BLOCKS} blocks: change model.neck.fusion.num_blocks")
    backbone = transformers.RTDetrResNetConfig(
        layer_type=block,
        depths=depths,
        hidden_sizes=_WIDTHS[block],
        embedding_size=64,
        out_features=[f"stage{_STAGES.index(name) + 1}" for name in cfg.backbone.out_features],
    )
    points = attention.num_points
    if isinstance(points, int):
        config = transformers.RTDetrConfig(backbone_config=backbone, decoder_n_points=points, **options)
        return transformers.RTDetrForObjectDetection, config
    if len(set(points)) > 1:
        raise BenchmarkError(f"transformers' RT-DETRv2 needs equal numbers of points on all levels, not {list(points)}")
    method = {"bilinear": "default"}.get(attention.sampling, attention.sampling)
    config = transformers.RTDetrV2Config(
        backbone_config=backbone, decoder_n_points=points[0], decoder_method=method, **options
    )
    return transformers.RTDetrV2ForObjectDetection, config


def _dfine(transformers: Any, cfg: DictConfig) -> tuple[Any, Any]:
    """The class and config of D-FINE."""
    if class_name(cfg.backbone) != "HGNetv2" or class_name(cfg.neck.fusion) != "RepNCSPELAN":
        raise BenchmarkError("transformers' D-FINE supports only an HGNetv2 and fusion by RepNCSPELAN")
    variant = VARIANTS[cfg.backbone.name]
    channels = [stage.channels for stage in variant.stages]
    backbone = transformers.HGNetV2Config(
        stem_channels=[3, *variant.stem],
        embedding_size=variant.stem[1],
        stage_in_channels=[variant.stem[1], *channels[:-1]],
        stage_mid_channels=[stage.mid_channels for stage in variant.stages],
        stage_out_channels=channels,
        hidden_sizes=channels,
        stage_num_blocks=[stage.num_blocks for stage in variant.stages],
        stage_numb_of_layers=[variant.num_layers] * len(channels),
        use_learnable_affine_block=cfg.backbone.use_lab,
        out_features=[f"stage{index + 1}" for index in cfg.backbone.out_indices],
    )
    if cfg.heads.quality is None:
        raise BenchmarkError("transformers' D-FINE always predicts location quality: change model.heads.quality")
    config = transformers.DFineConfig(
        backbone_config=backbone,
        decoder_n_points=list(_attention(cfg.transformer.decoder).num_points),
        decoder_activation_function=class_name(cfg.transformer.decoder.layer.ffn.activation).lower(),
        depth_mult=cfg.neck.fusion.num_blocks / _FUSION_BLOCKS,
        max_num_bins=cfg.heads.bins.reg_max,
        reg_scale=cfg.heads.bins.reg_scale,
        up=cfg.heads.bins.up,
        top_prob_values=cfg.heads.quality.topk,
        lqe_hidden_dim=cfg.heads.quality.hidden_dim,
        **_realtime_options(cfg),
    )
    return transformers.DFineForObjectDetection, config


def _realtime_options(cfg: DictConfig) -> dict[str, Any]:
    """The options that the configs of RT-DETR and D-FINE have in common."""
    neck, backbone = cfg.neck, cfg.backbone
    if neck.encoder is None:
        raise BenchmarkError("transformers' model has attention within a level: change model.neck.encoder")
    if cfg.transformer.decoder.num_eval_layers is not None:
        raise BenchmarkError(
            "transformers' model evaluates all decoder layers; add model.transformer.decoder.num_eval_layers=null"
        )
    if backbone.norm not in ("BN", "FrozenBN"):
        raise BenchmarkError(
            f"transformers' backbone has batch normalisation; change model.backbone.norm={backbone.norm}"
        )
    in_channels = list(instantiate(neck.in_channels).values())
    num_levels = len(in_channels)
    return {
        **_common_sizes(cfg, neck.encoder),
        "freeze_backbone_batch_norms": backbone.norm == "FrozenBN",
        "encoder_in_channels": in_channels,
        "encoder_hidden_dim": neck.hidden_dim,
        "encode_proj_layers": [level % num_levels for level in neck.encoder_levels],
        "feat_strides": _STRIDES[-num_levels:],
        "hidden_expansion": neck.fusion.expansion,
        "decoder_in_channels": [neck.hidden_dim] * num_levels,
        "num_feature_levels": cfg.transformer.num_feature_levels,
        "learn_initial_query": cfg.queries.mixed_selection,
        "with_box_refine": cfg.with_box_refine,
        "auxiliary_loss": cfg.aux_loss,
        "num_denoising": 0 if cfg.denoising is None else cfg.denoising.num_pairs,
    }


_STRIDES = (8, 16, 32)
_FUSION_BLOCKS = 3
# Class of a config's model -> a function that returns the class and config of transformers' model of that kind.
_KINDS = {"DETR": _detr, "MultiScaleDetector": _deformable_detr}


def _attention(part: DictConfig) -> DictConfig:
    """The attention to the image: the only attention of an encoder layer, the last one of a decoder layer."""
    attention = part.layer.attn
    attention = attention[-1] if isinstance(attention, ListConfig) else attention
    return attention.get("attention", attention)  # a gate wraps the attention itself


def _common_sizes(cfg: DictConfig, encoder: DictConfig) -> dict[str, Any]:
    decoder = cfg.transformer.decoder
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
        # This project's layers apply dropout to attention weights, to results of blocks and inside the FFN.
        "dropout": dropout,
        "attention_dropout": dropout,
        "activation_dropout": dropout,
    }


def _resnet_options(transformers: Any, backbone: DictConfig) -> dict[str, Any]:
    """Options for transformers' own ResNet, without timm and downloads. Only older versions need the two flags."""
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
    config = transformers.ResNetConfig(
        layer_type=kind,
        depths=depths[: stages[-1]],
        hidden_sizes=_WIDTHS[kind][: stages[-1]],
        embedding_size=64,
        out_features=[f"stage{number}" for number in stages],
    )
    return {"backbone_config": config, "use_timm_backbone": False, "use_pretrained_backbone": False}


def _train_the_same_stages(model: nn.Module, freeze_at: int) -> None:
    """Freeze by `freeze_at` (see `ResNet`), because transformers always freezes the stem and the first stage."""
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
        raise BenchmarkError(f"the config of {class_name(node)} does not set {name}")
    return default
