"""D-FINE-S for 132 epochs of COCO in batches of 32, the last 12 without strong augmentation and multi-scale.

detrex-lite train projects/dfine/configs/dfine_s_132ep.py --num-gpus 4
"""

from detrex_lite.config import get_config

from .models.dfine_s import model

_recipe = get_config("common/realtime.py")
dataloader = get_config("common/data/coco_realtime.py").dataloader
optimizer, train = _recipe.optimizer, _recipe.train
lr_multiplier = get_config("common/schedule.py").lr_multiplier_constant

model.backbone.weights = "PPHGNetV2_B0_stage1.pth"  # https://github.com/Peterande/storage/releases/download/dfinev1.0/
dataloader.strong_epochs = [0, 120]
dataloader.train.multi_scale.sizes.repeat = 20
dataloader.train.total_batch_size = 32
optimizer.lr = 2e-4
optimizer.params.backbone_lr_factor = 0.5
# Norms of the backbone have weight decay: the authors' pattern for parameters without it matches none of them.
optimizer.params.weight_decays = {r"^backbone\.": 1e-4, r"^(?!backbone\.).*bias": 0.0}
lr_multiplier.warmup_length = 500 / (132 * 3697)
train.model_ema.warmup = 1000
train.model_ema.restart.epoch = 120
train.max_epochs = 132
train.output_dir = "output/dfine_s_132ep"
