"""DETR-R50 for 300 epochs of COCO in batches of 64; learning rate x 0.1 after epoch 200.

detrex-lite train projects/detr/configs/detr_r50_300ep.py --num-gpus 8

As detrex trains it, except that norms have weight decay and images without objects are kept, as in the paper's
repository. detr_r50_paper_500ep.py is the paper's training.
"""

from detrex_lite.config import get_config

from .models.detr_r50 import model

dataloader = get_config("common/data/coco_detr.py").dataloader
optimizer = get_config("common/optim.py").AdamW
lr_multiplier = get_config("common/schedule.py").lr_multiplier_300ep
train = get_config("common/train.py").train

model.backbone.weights = "IMAGENET1K_V1"
dataloader.train.total_batch_size = 64
optimizer.params.backbone_lr_factor = 0.1
train.clip_grad.enabled = True
train.clip_grad.params.max_norm = 0.1
train.max_epochs = 300
train.output_dir = "output/detr_r50_300ep"
