"""Focus-DETR Swin-T for 36 epochs, from ImageNet-22k and then -1k at 224x224.

detrex-lite train projects/focus_detr/configs/focus_detr_swin_tiny_224_4scale_22k_36ep.py --num-gpus 8

As detrex trains it; see focus_detr_r50_4scale_12ep.py.
"""

from .focus_detr_swin_tiny_224_4scale_36ep import dataloader, lr_multiplier, model, optimizer, train

model.backbone.weights = "ms_in22k_ft_in1k"
train.output_dir = "output/focus_detr_swin_tiny_224_4scale_22k_36ep"
