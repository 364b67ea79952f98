"""Co-DINO R50 with five feature levels for 12 epochs with large scale jittering: published box AP 52.1, where objects
were also pasted from other images.

detrex-lite train projects/co_detr/configs/co_dino_r50_5scale_lsj_12ep.py --num-gpus 8
"""

from detrex_lite.config import get_config

from .co_dino_r50_5scale_12ep import lr_multiplier, model, optimizer, train

dataloader = get_config("common/data/coco_lsj.py").dataloader

train.output_dir = "output/co_dino_r50_5scale_lsj_12ep"
