"""Changes that make a detector with deformable attention small enough to train from scratch on a CPU in minutes.

ResNet-18, 128 channels, 2 + 3 layers, two stages: `model.merge_with(get_config("common/small_deformable.py").small)`.
"""

small = dict(
    backbone=dict(depth=18, out_features=["res3", "res4"], norm="BN", freeze_at=0),
    embed_dim=128,
    position_embedding=dict(num_pos_feats=64),
    transformer=dict(
        num_feature_levels=3,
        encoder=dict(num_layers=2, layer=dict(attn=dict(num_heads=4, dropout=0.0), ffn=dict(feedforward_dim=512))),
        decoder=dict(num_layers=3),
    ),
    num_queries=25,
    with_box_refine=True,
    as_two_stage=True,
    criterion=dict(weights=dict(loss_class=2.0)),
    postprocessor=dict(num_detections=50),
)
