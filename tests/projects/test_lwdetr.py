"""LW-DETR as a whole. Models are small; their structure is that of the configs."""

from detrex_lite.config import get_config
from detrex_lite.testing import (
    NUM_CLASSES,
    NUM_QUERIES,
    DeformableContract,
    changed,
)

NUM_GROUPS = 3
SMALL = {
    "num_classes": NUM_CLASSES,
    "num_queries": NUM_QUERIES,
    "embed_dim": 64,
    "backbone.embed_dim": 32,
    "backbone.depth": 4,
    "backbone.num_heads": 4,
    "backbone.num_windows": 2,
    "backbone.patch_size": 8,
    "backbone.pretrain_image_size": 32,
    "backbone.global_blocks": [1, 3],
    "backbone.out_blocks": [1, 3],
    "neck.num_blocks": 1,
    "queries.layout.num_groups": NUM_GROUPS,
    "transformer.decoder.num_layers": 2,
    "transformer.decoder.layer.attn[0].num_heads": 4,
    "transformer.decoder.layer.attn[1].num_heads": 4,
    "transformer.decoder.layer.ffn.feedforward_dim": 96,
}
# The large models have two levels, and drop branches.
TWO_LEVELS = {"neck.scales": [2.0, 0.5], "transformer.num_feature_levels": 2, "backbone.drop_path_rate": 0.1}


def small_config(**changes):
    cfg = get_config("projects/lwdetr/configs/models/lwdetr_tiny.py").model
    return changed(cfg, {**SMALL, **changes})


class TestLWDETR(DeformableContract):
    other_suffixes = frozenset({"_enc"})

    def config(self, **changes):
        return small_config(**changes)


class TestTwoLevels(DeformableContract):
    other_suffixes = frozenset({"_enc"})

    def config(self, **changes):
        return small_config(**TWO_LEVELS, **changes)
