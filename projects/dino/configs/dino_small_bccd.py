"""The small DINO on photographs of blood cells (github.com/Shenggan/BCCD_Dataset) at half size.

python tools/train_net.py --config-file projects/dino/configs/dino_small_bccd.py dataset.root=FOLDER
"""

from detrex_lite.config import get_config

from .dino_small_shapes import lr_multiplier, model, optimizer, train

dataset = get_config("common/data/bccd.py").dataset
dataloader = get_config("common/data/bccd.py").dataloader

model.num_queries = 100  # an image has up to 30 cells
model.postprocessor.num_detections = 100
train.max_iter = 600
train.eval_period = 300
train.output_dir = "output/dino_small_bccd"
