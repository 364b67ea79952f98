"""Mask DINO with a ResNet-50 for instance segmentation, as detrex trains it: differences from DINO.

`model.queries.mask_boxes=False` starts from the boxes of proposals instead of the boxes around their masks,
`model.heads.reads_initial=False` disables the predictions before the first layer, `model.denoising=None` denoising.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.modeling import resnet_channels
from detrex_lite.projects.maskdino.modeling import MaskDINOHeads

model = get_config("projects/dino/configs/models/dino_r50.py").model

model.backbone.out_features = ["res2", "res3", "res4", "res5"]
model.neck.in_channels = L(resnet_channels)(depth="${...backbone.depth}", out_features=["res3", "res4", "res5"])
model.position_embedding.offset = 0.0
model.preprocess.size_divisibility = 32
model.transformer.coarsest_first = True
model.transformer.decoder.num_layers = 9
model.num_queries = 300
model.queries.mixed_selection = False
model.queries.mask_boxes = True
model.share_heads = True
model.heads._target_ = MaskDINOHeads
model.heads.share_with_encoder = True
model.heads.reads_initial = True
model.heads.eps = 1e-5
model.denoising = get_config("common/denoising.py").positive
model.merge_with(get_config("common/masks.py").masks)
model.criterion.weights.loss_class = 4.0
model.criterion.matcher.costs.label.weight = 4.0
