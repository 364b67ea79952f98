"""The small Deformable DETR on photographs of blood cells (github.com/Shenggan/BCCD_Dataset) at half size.

detrex-lite train projects/deformable_detr/configs/deformable_detr_small_bccd.py dataset.root=FOLDER
"""

from detrex_lite.config import get_config

from .deformable_detr_small_shapes import lr_multiplier, model, optimizer, train

dataset = get_config("common/data/bccd.py").dataset
dataloader = get_config("common/data/bccd.py").dataloader

model.num_queries = 100  # images have up to 30 blood cells
model.postprocessor.num_detections = 100
train.max_iter = 600
train.eval_period = 300
train.output_dir = "output/deformable_detr_small_bccd"
