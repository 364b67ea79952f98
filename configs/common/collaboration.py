"""Heads of other detectors that train the encoder and give further queries (Co-DETR), for `model.collaboration`.

For decoders that compute position embeddings from boxes, as in DINO. Deformable DETR's decoder also needs
`queries.<name>.with_positions=True`.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.modeling.collaborative import ATSSHead, CollaborativeHeads, FasterRCNNHead, PositiveQueries

_queries = L(PositiveQueries)(
    embed_dim="${....embed_dim}",
    with_positions=False,
    with_features=False,
    max_queries=300,
    min_queries=9,
    fill_with_background=True,
)

collaboration = L(CollaborativeHeads)(
    heads=L(dict)(
        rcnn=L(FasterRCNNHead)(
            embed_dim="${....embed_dim}",
            num_classes="${....num_classes}",
            hidden_dim=1024,
            num_before_nms=4000,
            num_proposals=1000,
            rpn_samples=256,
            roi_samples=512,
            giou_weight=10.0,
        ),
        atss=L(ATSSHead)(
            embed_dim="${....embed_dim}",
            num_classes="${....num_classes}",
            num_feature_levels="${....transformer.num_feature_levels}",
            num_candidates=9,
            giou_weight=2.0,
        ),
    ),
    queries=L(dict)(rcnn=_queries, atss=_queries),
    embed_dim="${..embed_dim}",
    finest_stride=8,
    num_layers="${..transformer.decoder.num_layers}",
    head_weight=2.0,
    query_weight=1.0,
)
