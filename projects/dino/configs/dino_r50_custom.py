"""DINO R50 on your own images with COCO JSON annotations. Classes, epochs and learning rate are derived.

detrex-lite train projects/dino/configs/dino_r50_custom.py \
    pretrained.detector=dino_r50_4scale_12ep.pth dataset.train_images=... dataset.train_annotations=... \
    dataset.val_images=... dataset.val_annotations=...
"""

from detrex_lite.config import get_config

from .dino_r50_4scale_12ep import lr_multiplier, model, optimizer, train

dataset = get_config("common/data/custom_coco.py").dataset
dataloader = get_config("common/data/custom_coco.py").dataloader
pretrained = get_config("common/derived.py").pretrained

_derived = get_config("common/derived.py").derived
model.merge_with(_derived.model)
optimizer.merge_with(_derived.optimizer)
train.merge_with(_derived.train, {"eval_epochs": 5, "output_dir": "output/dino_r50_custom"})
dataloader.train.total_batch_size = 4
