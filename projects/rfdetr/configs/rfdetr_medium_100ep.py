"""RF-DETR-medium as its repository fine-tunes it by default; the published weights have box AP 54.7 on COCO.

detrex-lite train projects/rfdetr/configs/rfdetr_medium_100ep.py \\
    train.init_checkpoint=rf-detr-medium.pth
"""

from .models.rfdetr_medium import model
from .rfdetr_nano_100ep import dataloader, lr_multiplier, optimizer, train

dataloader.image_size = 576
dataloader.train.multi_scale.sizes = list(range(416, 737, 32))
train.output_dir = "output/rfdetr_medium_100ep"
