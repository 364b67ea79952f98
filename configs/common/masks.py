"""Masks for a detector with several feature levels whose queries are boxes (Mask DINO's): DINO, Relation-DETR, RT-DETR.

`model.merge_with(get_config("common/masks.py").masks)`. The backbone must also return the map of stride 4. The
neck does not use it, so the `in_channels` of the neck must name its maps.
"""

from torch import nn

from detrex_lite.config import LazyCall as L
from detrex_lite.layers import MLP
from detrex_lite.modeling import MaskBCELoss, MaskBranch, MaskCost, MaskDiceLoss, MaskPostprocessor, resnet_channels

_points = dict(num_points="${....num_mask_points}", oversample_ratio=3.0, importance_ratio=0.75)

masks = dict(
    mask_branch=L(MaskBranch)(
        in_channels=L(resnet_channels)(depth="${...backbone.depth}", out_features="${...backbone.out_features}"),
        in_feature="res2",
        embed_dim="${..embed_dim}",
        norm=L(nn.GroupNorm)(num_groups=32, num_channels="${...embed_dim}"),
        stride=4,
    ),
    heads=dict(
        extra=L(dict)(
            mask_embedding=L(MLP)(
                input_dim="${....embed_dim}", hidden_dim="${....embed_dim}", output_dim="${....embed_dim}", num_layers=3
            )
        )
    ),
    num_mask_points=12544,
    criterion=dict(
        matcher=dict(
            costs=dict(mask=L(MaskCost)(weight=5.0, dice_weight=5.0, num_points="${.....num_mask_points}")),
        ),
        losses=dict(loss_mask=L(MaskBCELoss)(**_points), loss_dice=L(MaskDiceLoss)(**_points)),
        weights=dict(loss_mask=5.0, loss_dice=5.0),
    ),
    postprocessor=L(MaskPostprocessor)(num_detections=100, clip_boxes=True, num_things=None, rate_masks=True),
)
