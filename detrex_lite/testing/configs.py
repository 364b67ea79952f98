"""Changes that make detector configs small enough for tests."""

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from .inputs import NUM_CLASSES, NUM_QUERIES

# For a config with this library's parts and any backbone: two layers of each kind, 64 channels.
SMALL_TRANSFORMER: Mapping[str, Any] = {
    "num_classes": NUM_CLASSES,
    "num_queries": NUM_QUERIES,
    "embed_dim": 64,
    "position_embedding.num_pos_feats": 32,
    "transformer.encoder.num_layers": 2,
    "transformer.encoder.layer.attn.num_heads": 4,
    "transformer.encoder.layer.ffn.feedforward_dim": 96,
    "transformer.decoder.num_layers": 2,
}
# The same with a ResNet-18 instead of a ResNet-50.
SMALL: Mapping[str, Any] = {**SMALL_TRANSFORMER, "backbone.depth": 18, "backbone.freeze_at": 0}


def changed(cfg: DictConfig, changes: Mapping[str, Any]) -> DictConfig:
    """Replace values of a config in place and return it.

    Args:
        cfg: the config of a model.
        changes: maps dotted keys to values; "decoder.layer.attn[0]._target_" reaches into a list. A value that is a
            config or a dict replaces the previous value.
    """
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value, merge=False)
    return cfg


def without_dropout(cfg: DictConfig) -> DictConfig:
    """Disable dropout in a config in place and return it; such arguments have "drop" in their names."""
    for node in list(_nodes(cfg)):
        for key in node:
            if "drop" in str(key):
                node[key] = 0.0
    return cfg


def _nodes(node: Any) -> Iterator[DictConfig]:
    if OmegaConf.is_dict(node):
        yield node
        for child in node.values():
            yield from _nodes(child)
    elif OmegaConf.is_list(node):
        for child in node:
            yield from _nodes(child)
