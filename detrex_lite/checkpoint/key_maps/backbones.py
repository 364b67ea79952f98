"""Names of backbones. Here, ResNets have torchvision's and networks of timm have timm's, under `backbone.model.`"""

from .key_map import KeyMap, Rules


def detectron2_resnet(theirs: str) -> Rules:
    """From detectron2's names of a ResNet, kept under the prefix `theirs`, to torchvision's under `backbone.`"""
    rules: list[tuple[str, str]] = [
        (f"{theirs}stem.conv1.norm.", "backbone.bn1."),
        (f"{theirs}stem.conv1.", "backbone.conv1."),
    ]
    for stage in (1, 2, 3, 4):
        before, here = f"{theirs}res{stage + 1}.#.", f"backbone.layer{stage}.#."
        rules += [
            (f"{before}conv#.norm.", f"{here}bn#."),
            (f"{before}shortcut.norm.", f"{here}downsample.1."),
            (f"{before}shortcut.", f"{here}downsample.0."),
            (before, here),
        ]
    return tuple(rules)


def swin(theirs: str) -> Rules:
    """From the names of Swin's authors, kept under the prefix `theirs`, to those of timm."""
    return (
        # A map is shrunk at the end of a stage there, and at the beginning of the next one here.
        *((f"{theirs}layers.{n}.downsample.", f"backbone.model.layers.{n + 1}.downsample.") for n in range(3)),
        (f"{theirs}patch_embed.", "backbone.model.patch_embed."),
        (f"{theirs}layers.", "backbone.model.layers."),
        (f"{theirs}norm#.", "backbone.norms.stage#."),
    )


def torchvision_swin(theirs: str) -> Rules:
    """From torchvision's names of a Swin, kept under the prefix `theirs`, to those of timm."""
    rules: list[tuple[str, str]] = [
        (f"{theirs}features.0.0.", "backbone.model.patch_embed.proj."),
        (f"{theirs}features.0.2.", "backbone.model.patch_embed.norm."),
    ]
    for stage in range(4):
        before, here = f"{theirs}features.{2 * stage + 1}.#.", f"backbone.model.layers.{stage}.blocks.#."
        rules += [
            (f"{before}mlp.0.", f"{here}mlp.fc1."),
            (f"{before}mlp.3.", f"{here}mlp.fc2."),
            (before, here),
            (f"{theirs}features.{2 * stage + 2}.", f"backbone.model.layers.{stage + 1}.downsample."),
        ]
    return tuple(rules)


def convnext(theirs: str) -> Rules:
    """From the names of ConvNeXt's authors, kept under the prefix `theirs`, to those of timm."""
    block, here = f"{theirs}stages.#.#.", "backbone.model.stages.#.blocks.#."
    return (
        (f"{theirs}downsample_layers.0.", "backbone.model.stem."),
        (f"{theirs}downsample_layers.#.", "backbone.model.stages.#.downsample."),
        (f"{block}dwconv.", f"{here}conv_dw."),
        (f"{block}pwconv#.", f"{here}mlp.fc#."),
        (block, here),
    )


def torchvision_resnet(theirs: str) -> Rules:
    """From torchvision's names of a ResNet, which are also timm's, kept under the prefix `theirs`."""
    return tuple((f"{theirs}{part}.", f"backbone.{part}.") for part in ("conv1", "bn1", "layer#"))


def transformers_resnet(theirs: str) -> Rules:
    """From the names of a ResNet in transformers: timm's, or those of its own `ResNetBackbone`, under `theirs`."""
    rules = [
        *torchvision_resnet(theirs),
        (f"{theirs}embedder.embedder.convolution.", "backbone.conv1."),
        (f"{theirs}embedder.embedder.normalization.", "backbone.bn1."),
    ]
    for stage in (1, 2, 3, 4):
        block, here = f"{theirs}encoder.stages.{stage - 1}.layers.#.", f"backbone.layer{stage}.#."
        for conv in (1, 2, 3):
            rules += [
                (f"{block}layer.{conv - 1}.convolution.", f"{here}conv{conv}."),
                (f"{block}layer.{conv - 1}.normalization.", f"{here}bn{conv}."),
            ]
        rules += [
            (f"{block}shortcut.convolution.", f"{here}downsample.0."),
            (f"{block}shortcut.normalization.", f"{here}downsample.1."),
        ]
    return tuple(rules)


def _projections(block: str, names: tuple[str, ...], here: str) -> Rules:
    """Those of queries, keys and values, which are one parameter here."""
    return tuple((f"{block}{name}.@", f"{here}attn.qkv.@[{index}/3]") for index, name in enumerate(names))


def transformers_dinov2(theirs: str, *, version: int = 5) -> Rules:
    """From the names of a DINOv2 in transformers, kept under the prefix `theirs`, to those of `WindowedViT`.

    Args:
        theirs: the prefix.
        version: 4 or 5, of transformers, whose names are written; those of both are read.
    """
    block, here = f"{theirs}encoder.layer.#.", "backbone.blocks.#."
    attention = {
        4: (
            *_projections(f"{block}attention.attention.", ("query", "key", "value"), here),
            (f"{block}attention.output.dense.", f"{here}attn.proj."),
        ),
        5: (
            *_projections(f"{block}attention.", ("q_proj", "k_proj", "v_proj"), here),
            (f"{block}attention.o_proj.", f"{here}attn.proj."),
        ),
    }
    return (
        (f"{theirs}embeddings.cls_token", "backbone.cls_token"),
        (f"{theirs}embeddings.position_embeddings", "backbone.pos_embed"),
        (f"{theirs}embeddings.patch_embeddings.projection.", "backbone.patch_embed.proj."),
        *attention.pop(version),
        *(rule for rules in attention.values() for rule in rules),
        (f"{block}layer_scale#.lambda1", f"{here}gamma_#"),
        (f"{block}norm#.", f"{here}norm#."),
        (f"{block}mlp.", f"{here}mlp."),
        (f"{theirs}layernorm.", "backbone.norm."),
    )


def transformers_cae(theirs: str) -> Rules:
    """From the names of LW-DETR's ViT in transformers, kept under the prefix `theirs`, to those of `WindowedViT`."""
    block, here = f"{theirs}encoder.layer.#.", "backbone.blocks.#."
    rules = [
        (f"{theirs}embeddings.position_embeddings", "backbone.pos_embed"),
        (f"{theirs}embeddings.projection.", "backbone.patch_embed.proj."),
        (f"{block}intermediate.", f"{here}mlp."),
        (f"{block}layernorm_before.", f"{here}norm1."),
        (f"{block}layernorm_after.", f"{here}norm2."),
        (f"{block}gamma_#", f"{here}gamma_#"),
    ]
    # In models, and in files.
    for query, key, value, output in (
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        ("attention.query", "attention.key", "attention.value", "output"),
    ):
        names = (query, key, value)
        rules += [
            *((f"{block}attention.{name}.weight", f"{here}attn.qkv.weight[{i}/3]") for i, name in enumerate(names)),
            (f"{block}attention.{query}.bias", f"{here}attn.q_bias"),
            (f"{block}attention.{value}.bias", f"{here}attn.v_bias"),
            (f"{block}attention.{output}.", f"{here}attn.proj."),
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

CAE = KeyMap(  # version 2, as LW-DETR's authors publish it
    "cae",
    signature=("encoder.blocks.#.attn.q_bias", "encoder.pos_embed"),
    rules=(("encoder.", "backbone."),),
)

DINOV2 = KeyMap(  # its authors' names; timm's have no token for masked patches
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
