"""DEIM-D-FINE-M for 102 epochs of COCO in batches of 32.

detrex-lite train projects/deim/configs/deim_dfine_m_102ep.py --num-gpus 4

Mosaics and mixup are in epochs 4 to 49; the last 12 have no strong augmentation.
"""

from .deim_dfine_s_132ep import dataloader, lr_multiplier, optimizer, train
from .models.deim_dfine_m import model

model.backbone.weights = "PPHGNetV2_B2_stage1.pth"  # https://github.com/Peterande/storage/releases/download/dfinev1.0/
dataloader.strong_epochs = [4, 90]
dataloader.mosaic_epochs = [4, 49]
dataloader.train.multi_scale.sizes.repeat = 6
optimizer.params.lr_factors = {r"^backbone\.": 0.1, r"^backbone\..*\.norm\.": 1.0}
lr_multiplier.merge_with({"epochs": 102, "flat_epochs": 49, "final_epochs": 12})
train.model_ema.restart.epoch = 90
train.max_epochs = 102
train.output_dir = "output/deim_dfine_m_102ep"
