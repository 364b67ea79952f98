"""RF-DETR-small as its repository fine-tunes it by default; the published weights have box AP 53.0 on COCO.

detrex-lite train projects/rfdetr/configs/rfdetr_small_100ep.py \\
    train.init_checkpoint=rf-detr-small.pth
"""

from .models.rfdetr_small import model
from .rfdetr_nano_100ep import dataloader, lr_multiplier, optimizer, train

dataloader.image_size = 512
dataloader.train.multi_scale.sizes = list(range(352, 673, 32))
train.output_dir = "output/rfdetr_small_100ep"
