"""RF-DETR-nano as its repository fine-tunes it by default: 100 epochs in batches of 16.

detrex-lite train projects/rfdetr/configs/rfdetr_nano_100ep.py \\
    train.init_checkpoint=rf-detr-nano.pth

The published weights, box AP 48.4 on COCO, were pre-trained on Objects365, by a recipe that is published only in
part. Images are resized to the largest side, and each batch to one of eleven sizes.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.data import MultiScale
from detrex_lite.engine.loop.optim import LayerDecay

from .models.rfdetr_nano import model

_realtime = get_config("common/realtime.py")
optimizer, train = _realtime.optimizer, _realtime.train
dataloader = get_config("common/data/coco_square.py").dataloader
lr_multiplier = get_config("common/schedule.py").lr_multiplier_constant

optimizer.params.update(
    weight_decay_norm=None,
    weight_decays={r"^backbone\..*(gamma|pos_embed|cls_token|patch_embed|bias|norm)": 0.0},
    lr_factors={r"^backbone\.": 1.5 * 0.7**2, r"^(transformer\.decoder|heads\.norm)\.": 0.7},
    # One more layer than the number of blocks, as published.
    lr_factor_func=L(LayerDecay)(rate=0.8, num_layers=13),
)
dataloader.image_size = 384
dataloader.train.multi_scale = L(MultiScale)(sizes=list(range(224, 545, 32)), interpolation="bilinear")
dataloader.train.mapper.augmentation.sides = ["${dataloader.train.multi_scale.sizes[10]}"]
dataloader.train.total_batch_size = 16
train.max_epochs = 100
train.model_ema.update(decay=0.993, warmup=100)
train.output_dir = "output/rfdetr_nano_100ep"
