"""DETR-R50 fine-tuned on your own images with COCO JSON annotations.

detrex-lite train projects/detr/configs/detr_r50_custom.py model.num_classes=3 \
    train.init_checkpoint=detr-r50.pth dataset.train_images=... dataset.train_annotations=... \
    dataset.val_images=... dataset.val_annotations=...
"""

from detrex_lite.config import get_config

from .detr_r50_300ep import lr_multiplier, model, optimizer, train

dataset = get_config("common/data/custom_coco.py").dataset
dataloader = get_config("common/data/custom_coco.py").dataloader

model.num_classes = "???"  # the class head is re-initialised if the checkpoint has another number
model.backbone.weights = None  # included in the checkpoint
dataloader.train.total_batch_size = 4
optimizer.lr = 2.5e-5  # the paper's 1e-4 is for batches of 64; small batches need less
train.max_epochs = 50
train.eval_epochs = 5
train.output_dir = "output/detr_r50_custom"
