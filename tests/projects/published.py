"""Names of weights in transformers and in detrex, and where the configs of projects are."""

import re
from pathlib import Path

import torch

import detrex_lite.projects

PROJECTS = Path(next(iter(detrex_lite.projects.__path__)))


def huggingface_resnet_config(*stages):
    """transformers' ResNet-18 that gives these stages."""
    from transformers import ResNetConfig

    return ResNetConfig(
        layer_type="basic",
        depths=[2, 2, 2, 2],
        hidden_sizes=[64, 128, 256, 512],
        embedding_size=64,
        out_features=list(stages),
    )


def huggingface_resnet(state):
    """The weights of a ResNet in a detector of transformers, under this project's names."""
    prefix = r"model\.backbone\.(?:conv_encoder\.)?model\."
    names = re.compile(prefix + r"(?:embedder\.embedder|encoder\.stages\.(\d)\.layers\.(\d))\.(.+)")
    renamed = {}
    for name, value in state.items():
        found = names.fullmatch(name)
        if found is None or name.endswith("num_batches_tracked"):
            continue
        stage, block, rest = found.groups()
        if stage is None:
            ours = rest.replace("convolution", "conv1").replace("normalization", "bn1")
        else:
            rest = re.sub(r"layer\.(\d)\.convolution", lambda n: f"conv{int(n[1]) + 1}", rest)
            rest = re.sub(r"layer\.(\d)\.normalization", lambda n: f"bn{int(n[1]) + 1}", rest)
            rest = rest.replace("shortcut.convolution", "downsample.0")
            rest = rest.replace("shortcut.normalization", "downsample.1")
            ours = f"layer{int(stage) + 1}.{block}.{rest}"
        renamed[f"backbone.{ours}"] = value
    return renamed


# Patterns of the names that several detectors of transformers have, and what replaces them.
HUGGINGFACE_COMMON_RULES = (
    (r"^bbox_predictor\.", "heads.bbox_embed.0."),
    (r"^model\.input_projection\.", "input_proj."),
    (r"^model\.", "transformer."),
    (r"^transformer\.decoder\.layernorm\.", "heads.norm."),
    (r"\.(mlp\.)?fc1\.", ".ffns.0.layers.0."),
    (r"\.(mlp\.)?fc2\.", ".ffns.0.layers.1."),
    (r"(encoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norms.0."),
    (r"(encoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norms.1."),
    (r"(decoder\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norms.0."),
    (r"(decoder\.layers\.\d+)\.encoder_attn_layer_norm\.", r"\1.norms.1."),
    (r"(decoder\.layers\.\d+)\.final_layer_norm\.", r"\1.norms.2."),
    (r"\.o_proj\.", ".out_proj."),
    (r"\.self_attn\.", ".attentions.0."),
    (r"\.encoder_attn\.", ".attentions.1."),
)


def huggingface_weights(state, rules):
    """The weights of a detector of transformers, under this project's names.

    Args:
        state: what the `state_dict` of that detector gives.
        rules: patterns and replacements of the names that only that detector has, applied before the common ones.
    """
    renamed = huggingface_resnet(state)
    heads_again = ("model.decoder.class_embed.", "model.decoder.bbox_embed.")
    for name, value in state.items():
        if name.startswith(("model.backbone.", *heads_again)) or re.search(r"\.[kv]_proj\.", name):
            continue
        if ".q_proj." in name:  # here the three projections are one parameter
            value = torch.cat([state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            name = name.replace("q_proj.", "in_proj_")
        renamed[apply_rules(name, (*rules, *HUGGINGFACE_COMMON_RULES))] = value
    return renamed


def apply_rules(name, rules):
    """`name` with each pattern replaced in turn."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def under_detrex_names(state, label_embedding="denoising_generator.label_encoder."):
    """Weights of a detector with deformable attention as detrex stores them, the heads twice."""
    rules = [
        (r"^denoising\.label_embedding\.", label_embedding),
        (r"^heads\.(class|bbox)_embed\.", r"\1_embed."),
        (r"^heads\.norm\.", "transformer.decoder.norm."),
        (r"^queries\.boxes\.", "refpoint_embed."),
        (r"^queries\.content\.", "transformer.tgt_embed." if "label_enc." in label_embedding else "tgt_embed."),
        (r"^queries\.proposals\.", "transformer."),
        (r"(\.decoder\.layers\.\d+\.attentions\.0)\.", r"\1.attn."),
        (r"(\.ffns\.0\.layers\.0)\.", r"\1.0."),
        (r"^(neck\.\w+\.\d+)\.0\.", r"\1.conv."),
        (r"^(neck\.\w+\.\d+)\.1\.", r"\1.norm."),
    ]
    renamed = {}
    for name, value in state.items():
        name = apply_rules(name, rules)
        renamed[name] = value
        if name.startswith(("class_embed.", "bbox_embed.")):
            renamed[f"transformer.decoder.{name}"] = value
    assert not [name for name in renamed if name.startswith(("heads.", "queries."))]
    return renamed
