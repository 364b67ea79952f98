"""DETA Swin-L fine-tuned for 24 epochs on images of up to 1200x2000: published box AP 62.9 after Objects365.

detrex-lite train projects/deta/configs/deta_swin_large_384_24ep.py --num-gpus 16

As in the paper's repository: set `train.init_checkpoint` to its weights after Objects365, or training starts from
ImageNet weights. Differences from deta_r50_24ep.py: the backbone, a quarter of the learning rate, larger images.
"""

from .deta_r50_24ep import dataloader, lr_multiplier, optimizer, train
from .models.deta_swin_large_384 import model

model.backbone.weights = "ms_in22k_ft_in1k"
dataloader.train.mapper.augmentation.short_edge_lengths = [int(1.5 * edge) for edge in range(480, 801, 32)]
dataloader.train.mapper.augmentation.max_size = 2000
dataloader.test.mapper.augmentation.short_edge_length = 1200
dataloader.test.mapper.augmentation.max_size = 2000
optimizer.lr = 5e-5
train.output_dir = "output/deta_swin_large_384_24ep"
