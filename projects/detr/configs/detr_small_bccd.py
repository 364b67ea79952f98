"""The small DETR on photographs of blood cells (github.com/Shenggan/BCCD_Dataset) at half size, from COCO JSON.

detrex-lite train projects/detr/configs/detr_small_bccd.py dataset.root=FOLDER
"""

from detrex_lite.config import get_config

from .detr_small_shapes import lr_multiplier, model, optimizer, train

dataset = get_config("common/data/bccd.py").dataset
dataloader = get_config("common/data/bccd.py").dataloader

# Photographs have more pixels than the generated shapes, for which this model is made: stride 16 is enough.
model.backbone.out_features = ["res4"]
model.in_feature = "res4"
model.num_queries = 100  # images have up to 30 blood cells
train.max_iter = 600
train.eval_period = 300
train.output_dir = "output/detr_small_bccd"
