"""A small detector with this project's names, and its weights under the names of other projects."""

import re

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck
from torchvision.models.resnet import ResNet as TorchvisionResNet
from torchvision.ops import FrozenBatchNorm2d

from detrex_lite.layers import FFN, MLP, BaseTransformerLayer, MultiheadAttention, TransformerLayerSequence

CHANNELS = 8


class Backbone(nn.Module):
    """The stem and the first stage of a ResNet with bottleneck blocks, under torchvision's names."""

    def __init__(self):
        super().__init__()
        body = TorchvisionResNet(Bottleneck, [2, 1, 1, 1], norm_layer=FrozenBatchNorm2d)
        self.conv1, self.bn1, self.layer1 = body.conv1, body.bn1, body.layer1


class Stack(TransformerLayerSequence):
    def __init__(self, order: tuple[str, ...]):
        layer = BaseTransformerLayer(
            attn=MultiheadAttention(CHANNELS, 2),
            ffn=FFN(CHANNELS, 2 * CHANNELS),
            norm=nn.LayerNorm(CHANNELS),
            operation_order=order,
        )
        super().__init__(layer, 2)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Stack(("self_attn", "norm", "ffn", "norm"))
        self.decoder = Stack(("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"))


class Queries(nn.Module):
    def __init__(self, num_queries: int):
        super().__init__()
        self.embedding = nn.Embedding(num_queries, CHANNELS)


class Heads(nn.Module):
    """One class head and one box head shared by all layers."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.class_embed = nn.ModuleList([nn.Linear(CHANNELS, num_classes + 1)])
        self.bbox_embed = nn.ModuleList([MLP(CHANNELS, CHANNELS, 4, num_layers=3)])
        self.norm = nn.LayerNorm(CHANNELS)


class Detector(nn.Module):
    def __init__(self, num_classes: int = 3, num_queries: int = 5):
        super().__init__()
        self.backbone = Backbone()
        self.input_proj = nn.Conv2d(256, CHANNELS, 1)
        self.transformer = Transformer()
        self.queries = Queries(num_queries)
        self.heads = Heads(num_classes)


def random_state(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Random weights for `model`, under its parameter names."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in model.state_dict().items()
    }


def renamed(state: dict[str, Tensor], *rules: tuple[str, str]) -> dict[str, Tensor]:
    """`state` with regular expressions replaced in its keys."""
    result = {}
    for key, value in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        result[key] = value
    assert len(result) == len(state)
    return result


# Rules from this project's names to those of other projects: the inverse of the key maps, written independently.
TO_DETECTRON2_RESNET = (
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
    (r"(layer\d\.\d)\.bn(\d)\.", r"\1.conv\2.norm."),
    *((rf"layer{stage}\.", f"res{stage + 1}.") for stage in (1, 2, 3, 4)),
    (r"^(backbone\.)?conv1\.", r"\1stem.conv1."),
    (r"^(backbone\.)?bn1\.", r"\1stem.conv1.norm."),
)
TO_SINGLE_HEADS = (
    (r"^heads\.(class|bbox)_embed\.0\.", r"\1_embed."),
    (r"^queries\.embedding\.", "query_embed."),
)
TO_DETREX = (
    *TO_DETECTRON2_RESNET,
    *TO_SINGLE_HEADS,
    (r"^heads\.norm\.", "transformer.decoder.post_norm_layer."),
    (r"(attentions\.\d)\.", r"\1.attn."),
    (r"(ffns\.\d\.layers\.0)\.", r"\1.0."),
)
TO_DETR = (
    *TO_SINGLE_HEADS,
    (r"^backbone\.", "backbone.0.body."),
    (r"attentions\.0", "self_attn"),
    (r"attentions\.1", "multihead_attn"),
    (r"ffns\.0\.layers\.0", "linear1"),
    (r"ffns\.0\.layers\.1", "linear2"),
    (r"norms\.0", "norm1"),
    (r"norms\.1", "norm2"),
    (r"norms\.2", "norm3"),
    (r"^heads\.norm\.", "transformer.decoder.norm."),
)
