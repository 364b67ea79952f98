"""The small DINO on photographs of blood cells (github.com/Shenggan/BCCD_Dataset) at half size.

detrex-lite train projects/dino/configs/dino_small_bccd.py dataset.root=FOLDER
"""

from detrex_lite.config import get_config

from .dino_small_shapes import lr_multiplier, model, optimizer, train

_bccd = get_config("projects/deformable_detr/configs/deformable_detr_small_bccd.py")
dataset, dataloader = _bccd.dataset, _bccd.dataloader

model.num_queries = _bccd.model.num_queries
model.postprocessor.num_detections = _bccd.model.postprocessor.num_detections
train.max_iter, train.eval_period = _bccd.train.max_iter, _bccd.train.eval_period
train.output_dir = "output/dino_small_bccd"
