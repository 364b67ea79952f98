"""RF-DETR-large as its repository fine-tunes it by default; the published weights have box AP 56.5 on COCO.

detrex-lite train projects/rfdetr/configs/rfdetr_large_100ep.py \\
    train.init_checkpoint=rf-detr-large.pth
"""

from .models.rfdetr_large import model
from .rfdetr_nano_100ep import dataloader, lr_multiplier, optimizer, train

dataloader.image_size = 704
dataloader.train.multi_scale.sizes = list(range(544, 865, 32))
train.output_dir = "output/rfdetr_large_100ep"
