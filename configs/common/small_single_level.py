"""Changes that make a detector with one feature level small enough to train from scratch on a CPU in minutes.

ResNet-18 up to stride 8, whose batch norms learn their statistics, 128 channels, 2 + 3 layers:
`model.merge_with(get_config("common/small_single_level.py").small)`.
"""

small = dict(
    backbone=dict(depth=18, out_features=["res3"], norm="BN", freeze_at=0),
    in_feature="res3",
    embed_dim=128,
    position_embedding=dict(num_pos_feats=64),
    transformer=dict(
        encoder=dict(num_layers=2, layer=dict(attn=dict(num_heads=4), ffn=dict(feedforward_dim=512))),
        decoder=dict(num_layers=3),
    ),
    num_queries=25,
)
