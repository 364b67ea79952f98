"""RT-DETRv2-S on your own images with COCO JSON annotations, from which classes, epochs and learning rate are derived.

detrex-lite train projects/rtdetr/configs/rtdetrv2_r18_custom.py \
    pretrained.detector=rtdetrv2_r18vd_120e_coco.pth dataset.train_images=... dataset.train_annotations=... \
    dataset.val_images=... dataset.val_annotations=...
"""

from detrex_lite.config import get_config

from .rtdetrv2_r18_120ep import model, optimizer, train

dataset = get_config("common/data/custom_coco_realtime.py").dataset
dataloader = get_config("common/data/custom_coco_realtime.py").dataloader
lr_multiplier = get_config("common/schedule.py").lr_multiplier_flat_cosine
pretrained = get_config("common/derived.py").pretrained
published = dict(epochs=120, batch=16, lr=1e-4)

_derived = get_config("common/derived.py").derived_realtime
model.merge_with(_derived.model)
optimizer.merge_with(_derived.optimizer)
optimizer.params.update(lr_factors=None, weight_decays=None)  # derived, with or without pre-trained weights
train.merge_with(_derived.train, {"output_dir": "output/rtdetrv2_r18_custom"})
train.model_ema.restart.epoch = "${dataloader.strong_epochs[1]}"
dataloader.merge_with(_derived.dataloader)
dataloader.train.total_batch_size = 8
