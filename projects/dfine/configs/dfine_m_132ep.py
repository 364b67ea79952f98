"""D-FINE-M for 132 epochs of COCO in batches of 32, the last 12 without strong augmentation and multi-scale.

detrex-lite train projects/dfine/configs/dfine_m_132ep.py --num-gpus 4
"""

from .dfine_s_132ep import dataloader, lr_multiplier, optimizer, train
from .models.dfine_m import model

model.backbone.weights = "PPHGNetV2_B2_stage1.pth"  # https://github.com/Peterande/storage/releases/download/dfinev1.0/
dataloader.train.multi_scale.sizes.repeat = 6
optimizer.params.backbone_lr_factor = 0.1
train.output_dir = "output/dfine_m_132ep"
