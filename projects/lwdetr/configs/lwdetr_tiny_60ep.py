"""LW-DETR-tiny, fine-tuned on COCO for 60 epochs in batches of 32 after Objects365: published box AP 42.6.

detrex-lite train projects/lwdetr/configs/lwdetr_tiny_60ep.py --num-gpus 8 \\
    train.init_checkpoint=LWDETR_tiny_30e_objects365.pth

The learning rate is constant. The vision transformer has a higher one, which decays from block to block towards the
image.
"""

from detrex_lite.config import LazyCall as L
from detrex_lite.config import get_config
from detrex_lite.engine.loop.optim import LayerDecay

from .models.lwdetr_tiny import model

_realtime = get_config("common/realtime.py")
optimizer, train = _realtime.optimizer, _realtime.train
dataloader = get_config("common/data/coco_square.py").dataloader
lr_multiplier = get_config("common/schedule.py").lr_multiplier_constant

optimizer.params.update(
    weight_decay_norm=None,
    weight_decays={r"^backbone\..*(gamma|pos_embed|bias|norm)": 0.0},
    lr_factors={r"^backbone\.": 1.5 * 0.7**2, r"^(transformer\.decoder|heads\.norm)\.": 0.7},
    lr_factor_func=L(LayerDecay)(rate=0.8, num_layers="${model.backbone.depth}"),
)
dataloader.train.total_batch_size = 32
train.max_epochs = 60
train.amp.enabled = False
train.model_ema.update(decay=0.9997, warmup=0)
train.output_dir = "output/lwdetr_tiny_60ep"
