"""DEIM-D-FINE-S for 132 epochs of COCO in batches of 32.

detrex-lite train projects/deim/configs/deim_dfine_s_132ep.py --num-gpus 4

Mosaics and mixup are in epochs 4 to 64; the last 12 have no strong augmentation.
"""

from detrex_lite.config import get_config

from .models.deim_dfine_s import model

_recipe = get_config("common/realtime.py")
dataloader = get_config("common/data/coco_realtime_mosaic.py").dataloader
optimizer, train = _recipe.optimizer, _recipe.train
lr_multiplier = get_config("common/schedule.py").lr_multiplier_flat_cosine

model.backbone.weights = "PPHGNetV2_B0_stage1.pth"  # https://github.com/Peterande/storage/releases/download/dfinev1.0/
dataloader.strong_epochs = [4, 120]
dataloader.mosaic_epochs = [4, 64]
dataloader.train.multi_scale.sizes.repeat = 20
dataloader.train.total_batch_size = 32
optimizer.lr = 4e-4
# Norms of the backbone have the same learning rate as the rest of the detector.
optimizer.params.lr_factors = {r"^backbone\.": 0.5, r"^backbone\..*\.norm\.": 1.0}
train.model_ema.warmup = 1000
train.model_ema.restart.epoch = 120
train.max_epochs = 132
train.output_dir = "output/deim_dfine_s_132ep"
