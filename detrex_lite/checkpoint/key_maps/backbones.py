"""Names of backbones. In this project, ResNets have torchvision's names, and timm's networks have timm's."""

from .key_map import KeyMap, Rules


def detectron2_resnet(prefix: str) -> Rules:
    """Translate detectron2's names of a ResNet under `prefix` to torchvision's names under `backbone.`"""
    rules: list[tuple[str, str]] = [
        (f"{prefix}stem.conv1.norm.", "backbone.bn1."),
        (f"{prefix}stem.conv1.", "backbone.conv1."),
    ]
    for stage in (1, 2, 3, 4):
        foreign, native = f"{prefix}res{stage + 1}.#.", f"backbone.layer{stage}.#."
        rules += [
            (f"{foreign}conv#.norm.", f"{native}bn#."),
            (f"{foreign}shortcut.norm.", f"{native}downsample.1."),
            (f"{foreign}shortcut.", f"{native}downsample.0."),
            (foreign, native),
        ]
    return tuple(rules)


def swin(prefix: str) -> Rules:
    """Translate the names of Swin's authors under `prefix` to those of timm."""
    return (
        # Maps are downsampled at the end of a stage there, and at the beginning of the next stage here.
        *((f"{prefix}layers.{n}.downsample.", f"backbone.model.layers.{n + 1}.downsample.") for n in range(3)),
        (f"{prefix}patch_embed.", "backbone.model.patch_embed."),
        (f"{prefix}layers.", "backbone.model.layers."),
        (f"{prefix}norm#.", "backbone.norms.stage#."),
    )


def torchvision_swin(prefix: str) -> Rules:
    """Translate torchvision's names of a Swin under `prefix` to those of timm."""
    rules: list[tuple[str, str]] = [
        (f"{prefix}features.0.0.", "backbone.model.patch_embed.proj."),
        (f"{prefix}features.0.2.", "backbone.model.patch_embed.norm."),
    ]
    for stage in range(4):
        foreign, native = f"{prefix}features.{2 * stage + 1}.#.", f"backbone.model.layers.{stage}.blocks.#."
        rules += [
            (f"{foreign}mlp.0.", f"{native}mlp.fc1."),
            (f"{foreign}mlp.3.", f"{native}mlp.fc2."),
            (foreign, native),
            (f"{prefix}features.{2 * stage + 2}.", f"backbone.model.layers.{stage + 1}.downsample."),
        ]
    return tuple(rules)


def convnext(prefix: str) -> Rules:
    """Translate the names of ConvNeXt's authors under `prefix` to those of timm."""
    block, native = f"{prefix}stages.#.#.", "backbone.model.stages.#.blocks.#."
    return (
        (f"{prefix}downsample_layers.0.", "backbone.model.stem."),
        (f"{prefix}downsample_layers.#.", "backbone.model.stages.#.downsample."),
        (f"{block}dwconv.", f"{native}conv_dw."),
        (f"{block}pwconv#.", f"{native}mlp.fc#."),
        (block, native),
    )


def torchvision_resnet(prefix: str) -> Rules:
    """Translate torchvision's names of a ResNet, which are also timm's, under `prefix`."""
    return tuple((f"{prefix}{part}.", f"backbone.{part}.") for part in ("conv1", "bn1", "layer#"))


def transformers_resnet(prefix: str) -> Rules:
    """Translate a ResNet's names in transformers under `prefix`: timm's, or those of `ResNetBackbone`."""
    rules = [
        *torchvision_resnet(prefix),
        (f"{prefix}embedder.embedder.convolution.", "backbone.conv1."),
        (f"{prefix}embedder.embedder.normalization.", "backbone.bn1."),
    ]
    for stage in (1, 2, 3, 4):
        block, native = f"{prefix}encoder.stages.{stage - 1}.layers.#.", f"backbone.layer{stage}.#."
        for conv in (1, 2, 3):
            rules += [
                (f"{block}layer.{conv - 1}.convolution.", f"{native}conv{conv}."),
                (f"{block}layer.{conv - 1}.normalization.", f"{native}bn{conv}."),
            ]
        rules += [
            (f"{block}shortcut.convolution.", f"{native}downsample.0."),
            (f"{block}shortcut.normalization.", f"{native}downsample.1."),
        ]
    return tuple(rules)


def _projections(block: str, names: tuple[str, ...], native: str) -> Rules:
    """Translate separate projections of queries, keys and values to a single parameter."""
    return tuple((f"{block}{name}.@", f"{native}attn.qkv.@[{index}/3]") for index, name in enumerate(names))


def transformers_dinov2(prefix: str, *, version: int = 5) -> Rules:
    """Translate the names of a DINOv2 in transformers under `prefix` to those of `WindowedViT`.

    Args:
        prefix: the prefix.
        version: 4 or 5, the version of transformers whose names are written; the names of both are read.
    """
    block, native = f"{prefix}encoder.layer.#.", "backbone.blocks.#."
    attention = {
        4: (
            *_projections(f"{block}attention.attention.", ("query", "key", "value"), native),
            (f"{block}attention.output.dense.", f"{native}attn.proj."),
        ),
        5: (
            *_projections(f"{block}attention.", ("q_proj", "k_proj", "v_proj"), native),
            (f"{block}attention.o_proj.", f"{native}attn.proj."),
        ),
    }
    return (
        (f"{prefix}embeddings.cls_token", "backbone.cls_token"),
        (f"{prefix}embeddings.position_embeddings", "backbone.pos_embed"),
        (f"{prefix}embeddings.patch_embeddings.projection.", "backbone.patch_embed.proj."),
        *attention.pop(version),
        *(rule for rules in attention.values() for rule in rules),
        (f"{block}layer_scale#.lambda1", f"{native}gamma_#"),
        (f"{block}norm#.", f"{native}norm#."),
        (f"{block}mlp.", f"{native}mlp."),
        (f"{prefix}layernorm.", "backbone.norm."),
    )


def transformers_cae(prefix: str) -> Rules:
    """Translate the names of LW-DETR's ViT in transformers under `prefix` to those of `WindowedViT`."""
    block, native = f"{prefix}encoder.layer.#.", "backbone.blocks.#."
    rules = [
        (f"{prefix}embeddings.position_embeddings", "backbone.pos_embed"),
        (f"{prefix}embeddings.projection.", "backbone.patch_embed.proj."),
        (f"{block}intermediate.", f"{native}mlp."),
        (f"{block}layernorm_before.", f"{native}norm1."),
        (f"{block}layernorm_after.", f"{native}norm2."),
        (f"{block}gamma_#", f"{native}gamma_#"),
    ]
    # The names in models, and in files.
    for query, key, value, output in (
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        ("attention.query", "attention.key", "attention.value", "output"),
    ):
        names = (query, key, value)
        rules += [
            *((f"{block}attention.{name}.weight", f"{native}attn.qkv.weight[{i}/3]") for i, name in enumerate(names)),
            (f"{block}attention.{query}.bias", f"{native}attn.q_bias"),
            (f"{block}attention.{value}.bias", f"{native}attn.v_bias"),
            (f"{block}attention.{output}.", f"{native}attn.proj."),
        ]
    return tuple(rules)


TORCHVISION = KeyMap(
    "torchvision",
    signature=("conv1.weight", "layer1.0.conv1.weight"),
    rules=torchvision_resnet(""),
    ignored=("fc.",),
)

DETECTRON2 = KeyMap(
    "detectron2",
    signature=("stem.conv1.weight", "res2.0.conv1.weight"),
    rules=detectron2_resnet(""),
    ignored=("stem.fc.",),
)

CAE = KeyMap(  # version 2, as published by LW-DETR's authors
    "cae",
    signature=("encoder.blocks.#.attn.q_bias", "encoder.pos_embed"),
    rules=(("encoder.", "backbone."),),
)

DINOV2 = KeyMap(  # the authors' names; timm's networks have no token for masked patches
    "dinov2",
    signature=("blocks.#.ls1.gamma", "cls_token", "patch_embed.proj.weight"),
    rules=(("blocks.#.ls#.gamma", "backbone.blocks.#.gamma_#"), ("", "backbone.")),
    ignored=("mask_token",),
)

TRANSFORMERS_DINOV2 = KeyMap(
    "transformers",
    signature=("encoder.layer.#.layer_scale1.lambda1", "embeddings.cls_token"),
    rules=transformers_dinov2(""),
    ignored=("embeddings.mask_token",),
    entry="",
)
