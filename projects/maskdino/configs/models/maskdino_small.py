"""A small Mask DINO that trains from scratch on a CPU: ResNet-18, 128 channels, 2 + 3 layers."""

from detrex_lite.config import get_config

from .maskdino_r50 import model

model.merge_with(get_config("common/small_deformable.py").small)
model.backbone.out_features = ["res2", "res3", "res4"]
model.neck.in_channels.out_features = ["res3", "res4"]
model.denoising.num_positives = 20
model.num_mask_points = 196
# Boxes around masks are rounded to cells of 4 pixels, a fifth of the side of the smallest shapes.
model.queries.mask_boxes = False
# Shapes are easy to segment and hard to classify: with the weights for photographs, mask losses dominate.
model.criterion.weights.loss_mask = model.criterion.weights.loss_dice = 1.0
model.criterion.matcher.costs.mask.weight = model.criterion.matcher.costs.mask.dice_weight = 1.0
model.criterion.matcher.costs.label.weight = 2.0
