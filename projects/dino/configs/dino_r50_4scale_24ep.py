"""DINO R50 with four feature levels for 24 epochs; learning rate x 0.1 after epoch 20.

detrex-lite train projects/dino/configs/dino_r50_4scale_24ep.py --num-gpus 8

As detrex trains it; see dino_r50_4scale_12ep.py.
"""

from .dino_r50_4scale_12ep import dataloader, lr_multiplier, model, optimizer, train

# As detrex's, whose weights were trained with these position embeddings.
model.position_embedding.temperature = 20
model.position_embedding.offset = 0.0
lr_multiplier.epochs = 24
lr_multiplier.milestones = [20]
train.max_epochs = 24
train.output_dir = "output/dino_r50_4scale_24ep"
