"""PnP-DETR-R50 for 300 epochs of COCO in batches of 64; learning rate x 0.1 after epoch 200.

detrex-lite train projects/pnp_detr/configs/pnp_detr_r50_300ep.py --num-gpus 8

As detrex trains it, except that norms have weight decay, images without objects are kept and gradients are clipped, as
projects/detr/configs/detr_r50_300ep.py.
"""

from detrex_lite.config import get_config

from .models.pnp_detr_r50 import model

_detr = get_config("projects/detr/configs/detr_r50_300ep.py")
dataloader, optimizer, lr_multiplier, train = _detr.dataloader, _detr.optimizer, _detr.lr_multiplier, _detr.train

model.backbone.weights = "IMAGENET1K_V1"
train.output_dir = "output/pnp_detr_r50_300ep"
