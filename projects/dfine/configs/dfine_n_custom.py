"""D-FINE-N on your own images with COCO JSON annotations, from which classes, epochs and learning rate are derived.

detrex-lite train projects/dfine/configs/dfine_n_custom.py \
    pretrained.detector=dfine_n_coco.pth dataset.train_images=... dataset.train_annotations=... \
    dataset.val_images=... dataset.val_annotations=...
"""

from detrex_lite.config import get_config

from .dfine_n_160ep import model, optimizer, train

dataset = get_config("common/data/custom_coco_realtime.py").dataset
dataloader = get_config("common/data/custom_coco_realtime.py").dataloader
lr_multiplier = get_config("common/schedule.py").lr_multiplier_flat_cosine
pretrained = get_config("common/derived.py").pretrained
published = dict(epochs=160, batch=128, lr=8e-4)

_derived = get_config("common/derived.py").derived_realtime
model.merge_with(_derived.model)
optimizer.merge_with(_derived.optimizer)
optimizer.params.update(lr_factors=None, weight_decays=None)  # derived, with or without pre-trained weights
train.merge_with(_derived.train, {"output_dir": "output/dfine_n_custom"})
train.model_ema.restart.epoch = "${dataloader.strong_epochs[1]}"
dataloader.merge_with(_derived.dataloader)
dataloader.train.total_batch_size = 8
