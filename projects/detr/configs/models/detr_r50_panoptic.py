"""DETR with a ResNet-50 for panoptic segmentation, as in the paper's repository: differences from its detector.

The 133 classes of COCO panoptic, things and then stuff, all have boxes. `model.freeze_detector=True` trains only the
mask head; `model.num_classes=80 model.panoptic_postprocessor=null` segments instances.
"""

from torch import nn

from detrex_lite.config import LazyCall as L
from detrex_lite.modeling import (
    SoftmaxMaskPostprocessor,
    SoftmaxPanoptic,
    WholeMaskDiceLoss,
    WholeMaskFocalLoss,
    resnet_channels,
)
from detrex_lite.modeling.single_level import AttentionMaskHead

from .detr_r50_paper import model

model.backbone.out_features = ["res2", "res3", "res4", "res5"]
model.num_classes = 133
model.freeze_detector = False
model.heads.extra = L(dict)(hidden=L(nn.Sequential)())  # no layers: the queries as the heads receive them
model.mask_head = L(AttentionMaskHead)(
    in_channels=L(resnet_channels)(depth="${...backbone.depth}", out_features="${...backbone.out_features}"),
    in_features=["res4", "res3", "res2"],
    embed_dim="${..embed_dim}",
    num_heads=8,
)
model.criterion.losses.loss_mask = L(WholeMaskFocalLoss)(alpha=0.25, gamma=2.0)
model.criterion.losses.loss_dice = L(WholeMaskDiceLoss)()
model.criterion.weights.loss_mask = 1.0
model.criterion.weights.loss_dice = 1.0
model.postprocessor = L(SoftmaxMaskPostprocessor)(clip_boxes=True, num_things=None, stride=4)
model.panoptic_postprocessor = L(SoftmaxPanoptic)(num_things=80, threshold=0.85, stride=4)
